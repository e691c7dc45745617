"""The training loop."""

import math
import time
from collections.abc import Iterator
from functools import partial
from signal import Signals

import numpy as np
import torch

from mftcoder.data.batch import Batch
from mftcoder.data.loader import steps
from mftcoder.engine.optimizer import learning_rate
from mftcoder.training.signals import stopped, stopped_by
from mftcoder.training.state import Run, agree, save
from mftcoder.training.step import StepResult, train_step
from mftcoder.training.watch import look_at_probe, observe_more, report_skipped, report_spikes, validate


def train_loop(run: Run) -> None:
    """Train from ``run.step`` to the end, or until early stopping; the last state is always saved.

    Raises StoppedError if a signal asked for it.
    """
    training = run.config.training
    if not run.looked:
        look(run)
    saved, stop = run.step, None
    run.profiling.follow(run.step)
    run.step_began = time.perf_counter()
    for batches in upcoming_steps(run):
        asked = take_step(run, batches).asked
        if run.step % (training.agreement_steps or math.inf) == 0:
            agree(run)
        if asked.any():
            save(run)  # before the looks, which may take longer than a launcher waits; resuming makes up for them
            saved, stop = run.step, stopped_by(asked)
            if stop:
                break
        improved = look(run)
        due = (improved and training.save_best) or is_due(run, training.save_strategy, training.save_steps)
        if due and saved < run.step:
            save(run)
            saved = run.step
        if run.ended:
            break
        run.profiling.follow(run.step)
        run.step_began = time.perf_counter()
    if saved < run.step:
        save(run)
    end(run, stop)


def look(run: Run) -> bool:
    """Look at the losses that are due after ``run.step`` steps; whether the validation is the best so far."""
    if run.probe and run.step % run.probe.every_steps == 0:
        look_at_probe(run)
    improved = is_due(run, run.config.training.eval_strategy, run.config.training.eval_steps) and validate(run)
    run.looked = True
    return improved


def end(run: Run, stop: Signals | None) -> None:
    """Say why there are no more steps; on every rank StoppedError if the reason is the signal ``stop``."""
    reason = f"stopped by {stop.name}" if stop else run.ended or "finished"
    run.metrics.write("stop", run.step, reason=reason)
    if stop:
        where = f"stopped at step {run.step} of {run.total_steps}, which is saved in {run.output_dir}"
        run.group.on_main(partial(_raise, stopped(stop, f"{where}. The same command with --resume goes on.")))
    run.metrics.tell(f"{reason} at step {run.step}; the run is in {run.output_dir}")


def _raise(error: Exception) -> None:
    raise error


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
    run.at("training")
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
        requests=run.requests.take,
    )
    observe_more(run, batches, result, seed)
    run.step, run.looked = run.step + 1, False
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
        report_skipped(run, batches, result)
    else:
        report_spikes(run, batches, result)
    return result
