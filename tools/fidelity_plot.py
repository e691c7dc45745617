"""The plot of fidelity.py: what a probe costs, and how far it is from full validation."""

from pathlib import Path
from typing import Protocol

import matplotlib.pyplot as plt


class Point(Protocol):
    """As in fidelity.py."""

    name: str
    cost: float
    per_seed: list[float]
    distance: float


COLOURS = {"none": "tab:gray", "paper": "tab:red", "efficient": "tab:blue"}


def draw(path: Path, points: list[Point], history: tuple[int, int]) -> None:
    """One point per probe, with the range over seeds."""
    plt.rcParams["svg.fonttype"] = "none"
    figure, axes = plt.subplots(figsize=(7.5, 4))
    for number, point in enumerate(points):
        kind, _, what = point.name.partition(": ")
        below, above = point.distance - min(point.per_seed), max(point.per_seed) - point.distance
        axes.errorbar(
            100 * (point.cost - 1), point.distance, [[below], [above]], fmt="o", color=COLOURS[kind], ms=4, lw=0.8
        )
        label = what.replace(" global batches", "") if kind == "efficient" else kind
        place = (5, 3 if number % 2 else -9)  # neighbours' labels keep clear of each other
        axes.annotate(label, (100 * (point.cost - 1), point.distance), place, textcoords="offset points", fontsize=7)
    axes.axvline(5, color="0.8", lw=0.8, zorder=0)
    axes.set(xlim=(-1, 37), ylim=0)
    axes.set(xlabel="cost of the probe, % of training", ylabel="distance of the weights from full validation")
    axes.set_title("window_steps {}, warmup_steps {}; size in global batches".format(*history), fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
