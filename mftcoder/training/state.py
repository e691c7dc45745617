"""A training run as one value, and its way into a checkpoint and out of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.profiler import record_function

from mftcoder.config.schema import Config
from mftcoder.data.loader import Loader, Schedule
from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine
from mftcoder.losses.guard import OverfitGuard
from mftcoder.losses.reductions import Reduction
from mftcoder.losses.weighting import TaskWeighting, Vector
from mftcoder.tasks import TaskSet
from mftcoder.training.agreement import check_agreement
from mftcoder.training.checkpoint import save_checkpoint
from mftcoder.training.early_stopping import EarlyStopping
from mftcoder.training.metrics import Metrics, Part
from mftcoder.training.probe import Probe, RowNumbers
from mftcoder.training.profiling import Profiling
from mftcoder.training.pushing import Pushing
from mftcoder.training.sampling import WeightedSampling
from mftcoder.training.signals import Requests
from mftcoder.training.spikes import SpikeWatch
from mftcoder.training.watchdog import Watchdog

T = TypeVar("T")


@dataclass
class Run:
    """Everything a training run consists of. Only the counts at its end and the parts with a state_dict change."""

    config: Config
    tasks: TaskSet
    group: Group
    engine: Engine
    reduction: Reduction
    weighting: TaskWeighting
    guard: OverfitGuard | None
    sampling: WeightedSampling | None  # None: by the schedule
    early_stopping: EarlyStopping
    metrics: Metrics
    profiling: Profiling
    schedule: Schedule
    train_loader: Loader
    probe: Probe | None  # None: the weighting watches no validation
    validation: tuple[Loader, RowNumbers]
    total_steps: int
    expected_units: Vector | None  # [K] of a mean step, where these are the denominators
    identity: dict  # what a checkpoint must agree on to be resumed
    requests: Requests = field(default_factory=Requests)
    watchdog: Watchdog | None = None
    step: int = 0  # optimizer steps done
    looked: bool = False  # whether what is due after these steps, beside saving, was done: looks at the losses
    nonfinite: int = 0  # skipped steps in a row
    spikes: SpikeWatch = field(init=False)
    rows_seen: Vector = field(init=False)  # [K], of each task
    step_began: float = 0.0  # seconds on time.perf_counter
    pushing: Pushing | None = None  # on rank 0, if checkpoints go to the hub

    def __post_init__(self) -> None:
        self.spikes, self.rows_seen = SpikeWatch(len(self.tasks)), np.zeros(len(self.tasks))

    def at(self, part: str) -> None:
        """Tell the watchdog what is done now."""
        if self.watchdog:
            self.watchdog.at(f"step {self.step}, {part}")

    def rows(self, step: int) -> RowNumbers:
        """The rows of ``step``, without tasks that overfit; with them, though they count nothing, rather than none."""
        trains = self.trains(step)
        if self.sampling:
            return self.sampling.rows(step, self.weighting.weights(step, np.ones(len(self.tasks))), trains)
        rows = self.schedule.rows(step)
        return [row for row in rows if trains[row[0]]] or rows

    def trains(self, step: int) -> NDArray[np.bool_]:
        """[K]: the tasks that ``step`` is to train on."""
        return np.array([self.guard is None or self.guard.trains(task, step) for task in range(len(self.tasks))])

    @property
    def ended(self) -> str | None:
        """Why there are no more steps although some are left; None while there are."""
        if self.early_stopping.should_stop:
            return f"early stopping: no better validation since step {self.early_stopping.best_step}"
        return None if self.trains(self.step).any() else "every task overfits (loss.guard)"

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def epoch(self) -> float:
        return self.step / self.schedule.steps_per_epoch

    @property
    def passes(self) -> Vector:
        """[K]: how often each task's rows were trained on so far, on average."""
        return self.rows_seen / np.array(self.schedule.mixture.rows_per_task)


def timed(part: Part) -> Callable[[Callable[[Run], T]], Callable[[Run], T]]:
    """Marks a function of a run whose time counts as ``part``, in the metrics and in a profile."""

    def decorate(function: Callable[[Run], T]) -> Callable[[Run], T]:
        @wraps(function)
        def measured(run: Run) -> T:
            run.at(part)
            with run.metrics.timing(part), record_function(f"mftcoder: {part}"):
                return function(run)

        return measured

    return decorate


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint holds beside the engine's part; the same on every rank."""
    return {
        "step": run.step,
        "looked": run.looked,
        "rows_seen": run.rows_seen.tolist(),
        "epoch": run.epoch,
        "best_step": run.early_stopping.best_step,
        "reduction": run.reduction.state_dict(),
        "weighting": run.weighting.state_dict(),
        "guard": run.guard.state_dict() if run.guard else None,
        "sampling": run.sampling.state_dict() if run.sampling else None,
        "early_stopping": run.early_stopping.state_dict(),
        "nonfinite": run.nonfinite,
        "spikes": run.spikes.state_dict(),
    }


@timed("agreement")
def agree(run: Run) -> None:
    """RunError if the ranks do not hold the same weights and state."""
    if run.group.size == 1 or run.config.training.agreement_steps is None:
        return
    learning_state = {"optimizer's steps": run.engine.optimizer_steps(), "data": run.identity["data"]}
    check_agreement(run.step, run.engine.replicated(), state_of(run) | learning_state, run.group)


def save(run: Run) -> None:
    """Write a checkpoint of the state after ``run.step`` steps, if the ranks agree on it."""
    agree(run)
    _save(run)


@timed("save")
def _save(run: Run) -> None:
    start = time.perf_counter()
    state = {**run.identity, **state_of(run), "window": run.metrics.window.state_dict()}
    save_checkpoint(run.output_dir, run.engine, state, run.group, run.config.training.save_total_limit)
    best = run.step == run.early_stopping.best_step
    run.metrics.write("checkpoint", run.step, seconds=time.perf_counter() - start, best=best)
    if run.pushing:
        run.pushing.saved(run.step)


def restore(run: Run, state: dict) -> None:
    """Take back what ``save`` wrote, but for the engine's part."""
    run.step, run.looked, run.nonfinite = state["step"], state["looked"], state["nonfinite"]
    run.rows_seen = np.array(state["rows_seen"])
    run.reduction.load_state_dict(state["reduction"])
    run.weighting.load_state_dict(state["weighting"])
    if run.guard:
        run.guard.load_state_dict(state["guard"])
    if run.sampling:
        run.sampling.load_state_dict(state["sampling"])
    run.early_stopping.load_state_dict(state["early_stopping"])
    run.spikes.load_state_dict(state["spikes"])
    run.metrics.window.load_state_dict(state["window"])
