"""The training loop."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from mftcoder.data.batch import Batch
from mftcoder.data.loader import steps
from mftcoder.engine.optimizer import learning_rate
from mftcoder.training.state import Run, save
from mftcoder.training.step import StepResult, train_step
from mftcoder.training.watch import look_at_probe, observe_more, report_skipped, validate


def train_loop(run: Run) -> None:
    """Train from ``run.step`` to the end, or until early stopping; the last state is always saved."""
    training = run.config.training
    if run.step == 0:
        look_at_probe(run)
        validate(run)
    saved = run.step
    run.profiling.follow(run.step)
    run.step_began = time.perf_counter()
    for batches in upcoming_steps(run):
        take_step(run, batches)
        if run.probe and run.step % run.probe.every_steps == 0:
            look_at_probe(run)
        improved = is_due(run, training.eval_strategy, training.eval_steps) and validate(run)
        if (improved and training.save_best) or is_due(run, training.save_strategy, training.save_steps):
            save(run)
            saved = run.step
        if run.ended:
            break
        run.profiling.follow(run.step)
        run.step_began = time.perf_counter()
    if saved < run.step:
        save(run)
    reason = run.ended or "finished"
    run.metrics.write("stop", run.step, reason=reason)
    run.metrics.tell(f"{reason} at step {run.step}; the run is in {run.output_dir}")


def upcoming_steps(run: Run) -> Iterator[list[Batch]]:
    """This rank's micro-batches of every step that is left."""
    left = range(run.step, run.step if run.ended else run.total_steps)
    return steps(run.train_loader, run.rows, run.config.training.per_device_train_batch_size, left)


def is_due(run: Run, strategy: str, every: int | None) -> bool:
    """Whether something that happens by ``strategy`` happens now; what happens at all also happens at the end."""
    period = every if strategy == "steps" else run.schedule.steps_per_epoch
    at_end = run.step == run.total_steps or run.ended is not None
    return strategy != "no" and (at_end or run.step % (period or 1) == 0)


def take_step(run: Run, batches: list[Batch]) -> StepResult:
    """One optimizer step. Its randomness (dropout) is a function of seed, step and rank, so resuming needs no state."""
    data_seconds, _ = time.perf_counter() - run.step_began, run.group.stopwatch.take()
    seed = int(np.random.SeedSequence((run.config.seed, run.step, run.group.rank)).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)
    rate = learning_rate(run.step, run.total_steps, run.config.training)
    result = train_step(
        run.engine,
        batches,
        run.weighting,
        step=run.step,
        learning_rate=rate,
        reduction=run.reduction,
        num_tasks=len(run.tasks),
        group=run.group,
        expected_units=run.expected_units,
        trains=run.trains(run.step),
    )
    observe_more(run, batches, result, seed)
    run.step += 1
    run.rows_seen += result.rows
    seconds, last = time.perf_counter() - run.step_began, run.step == run.total_steps
    run.metrics.step(
        result,
        step=run.step,
        epoch=run.epoch,
        passes=run.passes,
        learning_rate=rate,
        seconds=seconds,
        data_seconds=data_seconds,
        communication_seconds=run.group.stopwatch.take(),
        last=last,
    )
    run.nonfinite = run.nonfinite + 1 if result.info.skipped else 0
    if result.info.skipped:
        report_skipped(run, result)
    return result
