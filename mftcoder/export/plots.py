"""The report's series as small SVG files, which a model card can show without scripts."""

import html
import math
from typing import Any

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 40, 44  # margins of the plotting area
COLOURS = ("#0063b0", "#c94f00", "#007a5e", "#b03a86", "#8a6900", "#6a4cc2", "#1b8ca8", "#a3312d", "#5d7a1f", "#566071")
DASHES = ("", "6 3", "2 3")  # for the second and third ten of tasks


def line_plot(title: str, plot: dict[str, Any]) -> str:
    """An SVG of ``plot``, which is what ``report.figures.draw`` returns: a line per task over optimizer steps."""
    lines = plot["lines"]
    xs = [x for line in lines for x in line["x"]]
    ys = [y for line in lines for y in line["y"]] + ([plot["reference"]] if plot["reference"] is not None else [])
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    rows = math.ceil(len(lines) / 4)  # of the legend
    height = HEIGHT + 18 * rows

    def x_of(value: float) -> float:
        low, high = min(xs), max(xs)
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{html.escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=15, anchor="start"),
    ]
    for value in y_ticks:
        parts.append(_rule(LEFT, y_of(value), WIDTH - RIGHT, y_of(value)))
        parts.append(_text(LEFT - 8, y_of(value) + 4, f"{value:g}", anchor="end"))
    for value in x_ticks:
        parts.append(_text(x_of(value), HEIGHT - BOTTOM + 18, f"{value:,g}"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, "optimizer steps"))
    parts.append(
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" text-anchor="middle" '
        f'fill="#5c6670">{html.escape(plot["axis"])}</text>'
    )
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(line["x"], line["y"], strict=True))
        look = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{points}" fill="none" {look}/>')
        if len(line["x"]) == 1:
            parts.append(f'<circle cx="{x_of(line["x"][0]):.1f}" cy="{y_of(line["y"][0]):.1f}" r="3" fill="{colour}"/>')
        x, y = LEFT + number % 4 * 172, HEIGHT + 8 + 18 * (number // 4)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 20}" y2="{y}" {look}/>')
        parts.append(_text(x + 26, y + 4, html.unescape(line["name"])[:22], anchor="start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At most ``count`` + 1 round numbers that divide [low, high], or the one number that both are."""
    if not low < high:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)] or [low]


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle") -> str:
    colour = "#1d2127" if size > 12 else "#5c6670"
    escaped = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escaped}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dfe3e8"/>'
