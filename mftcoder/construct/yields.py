"""The cost and yield of a task, for a terminal."""

from typing import Any

from rich.table import Table


def table(manifest: dict[str, Any]) -> Table:
    """A line per step: what went in, what came out, and why the rest did not; below it the costs."""
    shown = Table("step", "in", "out", "left out because")
    for column in shown.columns[1:3]:
        column.justify = "right"
    for name, step in manifest["steps"].items():
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in step["left_out"].items())
        shown.add_row(name, f"{step['found']:,}", f"{step['used']:,}", reasons)
    shown.columns[0].footer, shown.columns[2].footer = "samples", f"{manifest['samples']:,}"
    shown.columns[3].footer = costs(manifest["costs"])
    shown.show_footer = True
    return shown


def costs(counts: dict[str, Any]) -> str:
    """Requests, tokens and money in a line."""
    parts = [
        f"{counts['requests']:,} requests",
        f"{counts['prompt_tokens']:,} + {counts['completion_tokens']:,} tokens",
    ]
    if guessed := counts["requests_with_estimated_tokens"]:
        parts[-1] += f" ({guessed:,} answers by estimate)"
    if "money" in counts:
        parts.append(f"money {counts['money']:,.4f}")
    return ", ".join(parts)
