"""The training loop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mftcoder.config.schema import Config
from mftcoder.data.loader import Loader, Schedule, steps
from mftcoder.distributed import Group
from mftcoder.engine.optimizer import learning_rate
from mftcoder.engine.protocol import Engine
from mftcoder.errors import RunError
from mftcoder.losses.weighting import TaskLosses, TaskWeighting
from mftcoder.tasks import TaskSet
from mftcoder.training.checkpoint import save_checkpoint
from mftcoder.training.early_stopping import EarlyStopping
from mftcoder.training.metrics import Metrics
from mftcoder.training.step import evaluate, train_step

RowNumbers = list[tuple[int, int]]  # (task id, row within the task)


@dataclass
class Run:
    """Everything a training run consists of. Only ``step``, ``nonfinite`` and the parts with a state_dict change."""

    config: Config
    tasks: TaskSet
    group: Group
    engine: Engine
    weighting: TaskWeighting
    early_stopping: EarlyStopping
    metrics: Metrics
    schedule: Schedule
    train_loader: Loader
    probe: tuple[Loader, RowNumbers, int] | None  # loader, rows, and steps between two looks; None: nobody watches
    validation: tuple[Loader, RowNumbers]
    total_steps: int
    identity: dict  # what a checkpoint must agree on to be resumed
    step: int = 0  # optimizer steps done
    nonfinite: int = 0  # skipped steps in a row
    stop_reason: str = field(default="")

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def epoch(self) -> float:
        return self.step / self.schedule.steps_per_epoch


def train_loop(run: Run) -> None:
    """Train from ``run.step`` to the end, or until early stopping; the last state is always saved."""
    if run.step == 0:
        look_at_probe(run)
        validate(run)
    saved = run.step
    for batches in upcoming_steps(run):
        take_step(run, batches)
        if run.probe and run.step % run.probe[2] == 0:
            look_at_probe(run)
        improved = is_due(run, run.config.training.eval_strategy, run.config.training.eval_steps) and validate(run)
        if run.early_stopping.should_stop:
            run.stop_reason = f"early stopping: no better validation since step {run.early_stopping.best_step}"
        best = improved and run.config.training.save_best
        if best or run.stop_reason or is_due(run, run.config.training.save_strategy, run.config.training.save_steps):
            save(run)
            saved = run.step
        if run.stop_reason:
            break
    if saved < run.step:
        save(run)
    run.metrics.write("stop", run.step, reason=run.stop_reason or "finished")
    run.metrics.tell(f"{run.stop_reason or 'finished'} at step {run.step}; the run is in {run.output_dir}")


def upcoming_steps(run: Run) -> Iterator[list]:
    """This rank's micro-batches of every step that is left."""
    rows = run.config.training.per_device_train_batch_size
    return steps(run.train_loader, run.schedule, rows, range(run.step, run.total_steps))


def is_due(run: Run, strategy: str, every: int | None) -> bool:
    """Whether something that happens by ``strategy`` happens now; what happens at all also happens at the end."""
    period = every if strategy == "steps" else run.schedule.steps_per_epoch
    return strategy != "no" and (run.step % (period or 1) == 0 or run.step == run.total_steps)


def take_step(run: Run, batches: list) -> None:
    """One optimizer step. Its randomness (dropout) is a function of seed, step and rank, so resuming needs no state."""
    seed = np.random.SeedSequence((run.config.seed, run.step, run.group.rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0]))
    rate = learning_rate(run.step, run.total_steps, run.config.training)
    result = train_step(
        run.engine,
        batches,
        run.weighting,
        step=run.step,
        learning_rate=rate,
        reduction=run.config.loss.reduction.type,
        num_tasks=len(run.tasks),
        group=run.group,
    )
    run.step += 1
    last = run.step == run.total_steps
    run.metrics.step(result, step=run.step, epoch=run.epoch, learning_rate=rate, last=last)
    run.nonfinite = run.nonfinite + 1 if result.info.skipped else 0
    if result.info.skipped:
        bad = [name for name, total in zip(run.tasks, result.totals, strict=True) if not np.isfinite(total)]
        where = f"the loss of {', '.join(bad)}" if bad else "the gradient"
        run.metrics.write("nonfinite", run.step, tasks=bad)
        run.metrics.tell(f"step {run.step}: {where} is not finite; the step was skipped")
        if run.nonfinite >= run.config.training.max_nonfinite_steps:
            raise RunError(
                f"step {run.step}: {where} was not finite in {run.nonfinite} steps in a row "
                "(training.max_nonfinite_steps). Lower training.learning_rate, or look at the data of these steps."
            )


def look_at_probe(run: Run) -> None:
    """Show the weighting the current losses on the probe, if it watches one."""
    if run.probe is None:
        return
    losses, seconds = measure(run, run.probe[0], run.probe[1])
    run.weighting.observe("validation", run.step, losses)
    weights = run.weighting.weights(run.step, np.ones(len(run.tasks)))
    seen = run.weighting.diagnostics()
    run.metrics.write("probe", run.step, losses=losses.values, weights=weights, **seen, seconds=seconds)


def validate(run: Run) -> bool:
    """Validate every task; whether it is the best so far."""
    if run.config.training.eval_strategy == "no" or not run.validation[1]:
        return False
    losses, seconds = measure(run, *run.validation)
    improved = run.early_stopping.observe(run.step, run.epoch, losses)
    ratios = run.early_stopping.ratios
    assert ratios is not None  # there was an evaluation
    run.metrics.write(
        "validation",
        run.step,
        epoch=run.epoch,
        losses=losses.values,
        ratios=ratios,
        mean_ratio=float(np.nanmean(ratios)) if np.isfinite(ratios).any() else None,
        improved=improved,
        seconds=seconds,
    )
    shown = "  ".join(f"{name} {value:.4f}" for name, value in zip(run.tasks, losses.values, strict=True))
    run.metrics.tell(f"step {run.step}: validation  {shown}{'  (best so far)' if improved else ''}")
    return improved


def measure(run: Run, loader: Loader, rows: RowNumbers) -> tuple[TaskLosses, float]:
    """(losses over ``rows``, seconds)."""
    start = time.perf_counter()
    losses = evaluate(
        run.engine,
        loader.deal(rows, run.config.training.per_device_eval_batch_size),
        reduction=run.config.loss.reduction.type,
        num_tasks=len(run.tasks),
        group=run.group,
    )
    return losses, time.perf_counter() - start


def save(run: Run) -> None:
    """Write a checkpoint of the state after ``run.step`` steps."""
    start = time.perf_counter()
    state = {
        **run.identity,
        "step": run.step,
        "epoch": run.epoch,
        "best_step": run.early_stopping.best_step,
        "weighting": run.weighting.state_dict(),
        "early_stopping": run.early_stopping.state_dict(),
        "window": run.metrics.window.state_dict(),
        "nonfinite": run.nonfinite,
    }
    save_checkpoint(run.output_dir, run.engine, state, run.group, run.config.training.save_total_limit)
    best = run.step == run.early_stopping.best_step
    run.metrics.write("checkpoint", run.step, seconds=time.perf_counter() - start, best=best)


def restore(run: Run, state: dict) -> None:
    """Take back what ``save`` wrote, but for the engine's part."""
    run.step, run.nonfinite = state["step"], state["nonfinite"]
    run.weighting.load_state_dict(state["weighting"])
    run.early_stopping.load_state_dict(state["early_stopping"])
    run.metrics.window.load_state_dict(state["window"])
