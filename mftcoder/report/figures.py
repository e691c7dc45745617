"""From the metrics of runs to the lines of a plot, as JSON for the page's script."""

import html
from typing import Any

import numpy as np

from mftcoder.report.plots import Plot
from mftcoder.report.run_folder import Run, Vector
from mftcoder.report.summary import Summary

MAX_POINTS = 2000  # per line: more than the pixels of a wide screen


def thin(steps: Vector, values: Vector, limit: int = MAX_POINTS) -> tuple[Vector, Vector]:
    """The finite points, at most ``limit`` (≥ 4) of them: the first, the last, and the extremes of equal stretches."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(values) <= limit:
        return steps, values
    kept = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), limit // 2 - 1):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    chosen = sorted(kept)
    return steps[chosen], values[chosen]


def draw(plot: Plot, runs: list[Run], summaries: list[Summary], tasks: list[str]) -> dict[str, Any] | None:
    """``plot`` with a line per task and run (or per run); None if no run recorded its metric.

    In a line, ``task`` and ``run`` are indices into ``tasks`` and ``runs``; ``task`` is null where it is no task's.
    """
    lines = [line for index, run in enumerate(runs) for line in _lines(plot, run, index, len(runs) > 1, tasks)]
    if not lines:
        return None
    marks = [
        {"step": summary.best_step, "run": index}
        for index, summary in enumerate(summaries)
        if plot.kind == "validation" and np.isfinite(summary.mean_ratio)
    ]
    look = {"axis": plot.axis, "percent": plot.percent, "reference": plot.reference}
    return {"id": plot.id, **look, "marks": marks, "lines": lines}


def _lines(plot: Plot, run: Run, index: int, name_run: bool, tasks: list[str]) -> list[dict[str, Any]]:
    timeline = run.timeline(plot.kind)
    series: list[tuple[str | None, Vector]] = [(None, timeline.scalar(plot.metric))]
    if plot.by_task:
        recorded = {task: values for task, values in timeline.tasks(plot.metric).items() if task in run.tasks}
        series = [*(plot.transform(recorded) if plot.transform else recorded).items()]
    lines = []
    for task, values in series:
        steps, values = thin(timeline.steps, values)
        if len(values):
            name = f"{task or plot.axis} · {run.label}" if name_run else task or plot.axis
            lines.append(
                {
                    "name": html.escape(name),  # Plotly reads a subset of HTML in names
                    "task": None if task is None else tasks.index(task),
                    "run": index,
                    "x": steps.tolist(),
                    "y": values.tolist(),
                }
            )
    return lines
