"""What the page plots: each metric, its axis, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mftcoder.report.run_folder import Vector

TaskSeries = dict[str, Vector]


def relative(series: TaskSeries) -> TaskSeries:
    """Each task's values [n] divided by its first finite one."""
    firsts = {task: values[np.isfinite(values)][:1] for task, values in series.items()}
    return {task: values / firsts[task] for task, values in series.items() if len(firsts[task]) and firsts[task][0]}


def shares(series: TaskSeries) -> TaskSeries:
    """Each task's part [n] of the sum over tasks; an absent task counts as 0."""
    total = np.sum([np.nan_to_num(values) for values in series.values()], axis=0)
    return {
        task: np.divide(np.nan_to_num(values), total, out=np.full(len(values), np.nan), where=total > 0)
        for task, values in series.items()
    }


@dataclass(frozen=True)
class Plot:
    """One metric over optimizer steps: a line per task and run, or per run if ``by_task`` is false."""

    section: str
    title: str
    reading: str
    axis: str
    kind: str  # train, validation or probe
    metric: str
    by_task: bool = True
    transform: Callable[[TaskSeries], TaskSeries] | None = None
    reference: float | None = None  # a thin horizontal line
    percent: bool = False
    wide: bool = False

    @property
    def id(self) -> str:
        """Its element in the page."""
        return self.title.lower().replace(" ", "-")


PLOTS = (
    Plot(
        "progress",
        "Validation loss relative to the first",
        "Every task starts at 1; lower is better. Lines that fall side by side are tasks that arrive together. "
        "A line that turns up is a task that overfits. The thin vertical line marks the best evaluation.",
        "loss / first loss",
        "validation",
        "ratios",
        reference=1.0,
        wide=True,
    ),
    Plot(
        "progress",
        "Validation loss",
        "Loss on held-out samples. Compare a task with itself: tasks differ in how predictable they are.",
        "nats per unit",
        "validation",
        "losses",
    ),
    Plot(
        "progress",
        "Training loss",
        "Each point is the mean since the point before. Falling here but rising above means overfitting.",
        "nats per unit",
        "train",
        "losses",
    ),
    Plot(
        "progress",
        "Training loss relative to the first",
        "The same on one scale: which task learns its training data fastest.",
        "loss / first loss",
        "train",
        "losses",
        transform=relative,
        reference=1.0,
    ),
    Plot(
        "progress",
        "Share of units",
        "What each task contributed to the data of a step (supervised tokens or samples, as the reduction counts).",
        "share of units",
        "train",
        "units",
        transform=shares,
        percent=True,
    ),
    Plot(
        "progress",
        "Passes over the data",
        "How often each task's rows have been trained on. A small task far above the others is being repeated: "
        "look whether its validation loss turns up, and see data.sampling.",
        "passes",
        "train",
        "passes",
    ),
    Plot(
        "weighting",
        "Task weights",
        "How much each task's loss counted, on average over the steps since the line before; a task without data "
        "in a step has 0 there. Together about 1. Flat lines: nothing was rebalanced.",
        "weight",
        "train",
        "weights",
        wide=True,
    ),
    Plot(
        "weighting",
        "Probe loss",
        "The losses that the weighting watched, on its own fixed validation rows.",
        "nats per unit",
        "probe",
        "losses",
    ),
    Plot(
        "weighting",
        "Slopes",
        "Trend of each task's probe loss ratio per step. Below 0 the task still improves; above 0 it diverges.",
        "ratio per step",
        "probe",
        "slopes",
        reference=0.0,
    ),
    Plot(
        "weighting",
        "Relative convergence score (RCS)",
        "Compares tasks with each other: high means slower to converge than the rest, so it gets more weight.",
        "RCS",
        "probe",
        "rcs",
    ),
    Plot(
        "weighting",
        "Absolute convergence score (ACS)",
        "Compares a task with its own past: high while it keeps improving, low once it stalls or diverges.",
        "ACS",
        "probe",
        "acs",
    ),
    Plot(
        "weighting",
        "Divergence factor (DF)",
        "Mixes the two scores: near 1 weights follow RCS; it falls as a task begins to diverge, and ACS takes over.",
        "DF",
        "probe",
        "df",
        by_task=False,
    ),
    Plot(
        "optimisation",
        "Weighted loss",
        "The quantity that was minimised. It also moves when the weights do.",
        "nats",
        "train",
        "loss",
        by_task=False,
    ),
    Plot(
        "optimisation",
        "Gradient norm",
        "Before clipping. Spikes that grow more frequent are an early sign of instability.",
        "norm",
        "train",
        "grad_norm",
        by_task=False,
    ),
    Plot(
        "optimisation",
        "Learning rate",
        "The schedule as it was applied.",
        "learning rate",
        "train",
        "learning_rate",
        by_task=False,
    ),
    Plot(
        "optimisation",
        "Throughput",
        "Tokens per second over all devices. Dips are usually waiting: for data, validation or checkpoints.",
        "tokens per second",
        "train",
        "tokens_per_second",
        by_task=False,
    ),
    Plot(
        "optimisation",
        "Share of the peak rate (MFU)",
        "What the method needs of arithmetic, against what the hardware could do. Recomputing does not raise it.",
        "share of peak",
        "train",
        "mfu",
        by_task=False,
        percent=True,
    ),
    Plot(
        "optimisation",
        "Time beside the steps",
        "The share of the time spent waiting for data, on validation and probe, and on checkpoints; metrics.jsonl has "
        "the seconds of each.",
        "share of time",
        "train",
        "overhead",
        by_task=False,
        percent=True,
    ),
    Plot(
        "optimisation",
        "Memory",
        "Of the first rank: the most that was allocated on its GPU; on a CPU, what the process held. Flat is good.",
        "GiB",
        "train",
        "memory_gib",
        by_task=False,
    ),
)
