"""Looking at the model while it trains: the probe, the validation, and what a weighting wants to know of a step."""

import time
from dataclasses import replace

import numpy as np
import torch

from mftcoder.data.batch import Batch
from mftcoder.data.loader import Loader
from mftcoder.data.prepare import shards_path
from mftcoder.errors import RunError
from mftcoder.losses.weighting import TaskLosses
from mftcoder.training.probe import RowNumbers
from mftcoder.training.spikes import worst_samples
from mftcoder.training.state import Run, timed
from mftcoder.training.step import StepResult, evaluate, measure


@timed("probe")
def look_at_probe(run: Run) -> None:
    """Show the weighting the current losses on the probe, if it watches one."""
    if run.probe is None:
        return
    start = time.perf_counter()
    if run.step == 0 and len(run.probe.mini_batches) > 1:  # every part of the probe needs a loss to compare with
        for turn, rows in enumerate(run.probe.mini_batches):
            losses = replace(losses_on(run, run.probe.loader, rows), mini_batch=turn)
            run.weighting.observe("baseline", 0, losses)
        return
    turn = run.probe.turn(run.step)
    losses = replace(losses_on(run, run.probe.loader, run.probe.mini_batches[turn]), mini_batch=turn)
    run.weighting.observe("validation", run.step, losses)
    for name in run.guard.observe(run.step, losses) if run.guard else ():
        run.metrics.write("overfit", run.step, task=name)
        run.metrics.tell(f"step {run.step}: {name} overfits and is not trained on any more (loss.guard)")
    weights = run.weighting.weights(run.step, np.ones(len(run.tasks)))
    seen, seconds = run.weighting.diagnostics(), time.perf_counter() - start
    run.metrics.write(
        "probe",
        run.step,
        losses=losses.values,
        standard_errors=losses.standard_errors,
        weights=weights,
        **seen,
        seconds=seconds,
    )


@timed("validation")
def validate(run: Run) -> bool:
    """Validate every task; whether it is the best so far."""
    if run.config.training.eval_strategy == "no" or not run.validation[1]:
        return False
    start = time.perf_counter()
    losses = losses_on(run, *run.validation)
    improved = run.early_stopping.observe(run.step, run.epoch, losses)
    ratios = run.early_stopping.ratios
    assert ratios is not None  # there was an evaluation
    run.metrics.write(
        "validation",
        run.step,
        epoch=run.epoch,
        losses=losses.values,
        standard_errors=losses.standard_errors,
        ratios=ratios,
        mean_ratio=float(np.nanmean(ratios)) if np.isfinite(ratios).any() else None,
        improved=improved,
        seconds=time.perf_counter() - start,
    )
    shown = "  ".join(
        f"{name} {value:.4f}" if present else f"{name} –"
        for name, value, present in zip(run.tasks, losses.values, losses.present, strict=True)
    )
    run.metrics.tell(f"step {run.step}: validation  {shown}{'  (best so far)' if improved else ''}")
    return improved


def losses_on(run: Run, loader: Loader, rows: RowNumbers) -> TaskLosses:
    """The tasks' mean NLL over ``rows``."""
    return evaluate(
        run.engine,
        loader.deal(rows, run.config.training.per_device_eval_batch_size),
        unit=run.reduction.unit,
        num_tasks=len(run.tasks),
        group=run.group,
    )


def observe_more(run: Run, batches: list[Batch], result: StepResult, seed: int) -> None:
    """Show the weighting what it wants to know of the step beside its losses."""
    watch = run.engine.model.gradient_watch
    norms = watch.take(run.group) if watch else None
    if result.info.skipped:
        return
    if norms is not None:  # of Σ a_i l_i, task by task
        own = TaskLosses.of(norms.cpu().numpy(), result.weights)
        run.weighting.observe("gradient_norm", run.step, own)
    if "replay" in run.weighting.observes:
        torch.manual_seed(seed)  # the same dropout
        again = measure(run.engine, batches, reduction=run.reduction, num_tasks=len(run.tasks), group=run.group)
        run.weighting.observe("replay", run.step, again)


def report_spikes(run: Run, batches: list[Batch], result: StepResult) -> None:
    """Warn of tasks whose loss jumped, with the samples of the step to look at."""
    spikes = run.spikes.observe(run.step, result.losses)
    if not spikes:
        return
    samples = worst_samples(run.engine, batches, [spike.task for spike in spikes], run.group)
    for spike in spikes:
        name, worst = run.tasks.names[spike.task], samples[spike.task]
        run.metrics.write("spike", run.step, task=name, loss=spike.loss, usual=spike.usual, samples=worst)
        run.metrics.tell(
            f"step {run.step}: the loss of {name} jumped to {spike.loss:.3f}; usual is {spike.usual:.3f}. "
            f"{_look_at(run, name, worst)}"
        )


def _look_at(run: Run, task: str, samples: list[int]) -> str:
    shards, (first, *more) = shards_path(run.config), samples
    others = f" (then {', '.join(map(str, more))})" if more else ""
    return f"Its worst sample: mftcoder inspect {shards} --task {task} --sample {first}{others}"


def report_skipped(run: Run, batches: list[Batch], result: StepResult) -> None:
    """Say which tasks' losses were not finite, and in which samples; RunError if that went on for too long."""
    bad = [task for task, total in enumerate(result.totals) if not np.isfinite(total)]
    names = [run.tasks.names[task] for task in bad]
    where = f"the loss of {', '.join(names)}" if bad else "the gradient"
    samples = worst_samples(run.engine, batches, bad, run.group) if bad else {}
    run.metrics.write("nonfinite", run.step, tasks=names, samples=[samples[task] for task in bad])
    run.metrics.tell(f"step {run.step}: {where} is not finite; the step was skipped")
    for task in bad:
        run.metrics.tell(_look_at(run, run.tasks.names[task], samples[task]))
    if run.nonfinite >= run.config.training.max_nonfinite_steps:
        raise RunError(
            f"step {run.step}: {where} was not finite in {run.nonfinite} steps in a row "
            "(training.max_nonfinite_steps). Lower training.learning_rate, or look at the data of these steps."
        )
