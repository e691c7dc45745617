"""A run in a few numbers: where each task began, where it ended, and how close together the tasks arrived."""

from dataclasses import dataclass

import numpy as np

from mftcoder.report.run_folder import Run, Vector


@dataclass(frozen=True)
class TaskOutcome:
    """Validation losses of one task (nats per unit); NaN where they were not measured."""

    first: float
    best: float  # at the run's best evaluation, which all tasks share
    last: float
    ratio: float  # at the best evaluation: loss / first loss
    lowest_step: float  # where this task alone was lowest

    @property
    def change(self) -> float:
        """Relative change from the first loss to the best evaluation; negative is better."""
        return self.best / self.first - 1 if self.first else np.nan


@dataclass(frozen=True)
class Summary:
    """One run. Its best evaluation has the lowest mean of loss ratios; it is the last one if none was recorded."""

    label: str
    last_step: float
    best_step: float
    mean_ratio: float  # at the best evaluation
    spread: float  # largest minus smallest ratio at the best evaluation: 0 = all tasks gained the same
    tokens_per_second: float  # median over the train lines, so that start-up and saving do not count
    seconds: float  # spent in training windows
    skipped_steps: float
    tasks: dict[str, TaskOutcome]


def summarize(run: Run) -> Summary:
    """The numbers of ``run``."""
    validation = run.validation
    mean_ratios = validation.scalar("mean_ratio")
    best = int(np.nanargmin(mean_ratios)) if np.isfinite(mean_ratios).any() else len(validation.steps) - 1
    tasks = {
        task: _outcome(validation.steps, losses, validation.tasks("ratios").get(task), best)
        for task, losses in validation.tasks("losses").items()
    }
    ratios = _finite(np.array([outcome.ratio for outcome in tasks.values()]))
    steps = np.concatenate([timeline.steps for timeline in (run.train, validation, run.probe)])
    speeds = _finite(run.train.scalar("tokens_per_second"))
    seconds = _finite(run.train.scalar("seconds"))
    return Summary(
        label=run.label,
        last_step=steps.max() if len(steps) else np.nan,
        best_step=validation.steps[best] if len(validation.steps) else np.nan,
        mean_ratio=mean_ratios[best] if len(mean_ratios) else np.nan,
        spread=float(np.ptp(ratios)) if len(ratios) else np.nan,
        tokens_per_second=float(np.median(speeds)) if len(speeds) else np.nan,
        seconds=float(seconds.sum()) if len(seconds) else np.nan,
        skipped_steps=float(_finite(run.train.scalar("skipped")).sum()),
        tasks=tasks,
    )


def _outcome(steps: Vector, losses: Vector, ratios: Vector | None, best: int) -> TaskOutcome:
    measured = np.flatnonzero(np.isfinite(losses))
    if not len(measured):
        return TaskOutcome(np.nan, np.nan, np.nan, np.nan, np.nan)
    return TaskOutcome(
        first=float(losses[measured[0]]),
        best=float(losses[best]),
        last=float(losses[measured[-1]]),
        ratio=float(ratios[best]) if ratios is not None else np.nan,
        lowest_step=float(steps[measured[np.argmin(losses[measured])]]),
    )


def _finite(values: Vector) -> Vector:
    return values[np.isfinite(values)]
