"""Replaying recorded losses through a weighting: what it would have done, without a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import TaskLosses, TaskWeighting, build, parse
from mftcoder.losses.weighting.base import Vector
from mftcoder.losses.weighting.famo import Famo
from mftcoder.tasks import TaskSet


def simulate(
    weighting: Mapping[str, Any],
    losses: ArrayLike,
    *,
    step0_losses: ArrayLike | None = None,
    interval: int = 1,
    tasks: Sequence[str] | None = None,
) -> dict[str, Vector]:
    """The weights that follow from ``losses`` [T, K] (nats; NaN: the task was absent).

    Row t is observed at step t · ``interval``; the weights after that observation are row t. It stands for whatever the
    weighting observes: losses on the probe or of training batches and, for FAMO, of one fixed batch, so that row t is
    what row t - 1 became. All tasks are taken to be present in every step, with equally many units.

    Args:
        weighting: the section ``loss.weighting`` of a config.
        losses: [T, K].
        step0_losses: [K], l(0) and nothing else; otherwise l(0) is each task's first finite loss.
        interval: steps from one row to the next.
        tasks: names of the K tasks (task-1, task-2, …).

    Returns:
        "weights" [T, K] and what the weighting has as diagnostics, NaN while undefined: for CoBa "slopes", "rcs",
        "acs", "ratios", "missing" [T, K] and "df" [T]. For FAMO the weights are z = softmax(ξ), and "coefficients"
        [T, K] is what the losses are multiplied with in the step that follows row t, before its update.

    Raises:
        MftcoderError: ``weighting`` or a shape is wrong, or the weighting needs more than losses.
    """
    if interval < 1:
        raise MftcoderError(f"interval: must be at least 1 step; found {interval}.")
    rows = np.array(losses, dtype=np.float64)
    steps = [t * interval for t in range(rows.shape[0] if rows.ndim else 0)]
    return replay(weighting, rows, steps=steps, step0_losses=step0_losses, tasks=tasks)


def replay(
    weighting: Mapping[str, Any],
    rows: Vector,
    *,
    steps: Sequence[int],
    step0_losses: ArrayLike | None = None,
    tasks: Sequence[str] | None = None,
) -> dict[str, Vector]:
    """As ``simulate``, with ``rows`` [T, K] observed at the T given ``steps``, which increase."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise MftcoderError(f"losses: must be an array of steps by tasks, neither empty; found the shape {rows.shape}.")
    num_tasks = rows.shape[1]
    names = tuple(tasks) if tasks is not None else tuple(f"task-{i + 1}" for i in range(num_tasks))
    if len(names) != num_tasks:
        raise MftcoderError(f"tasks: the losses are of {num_tasks} tasks; found {len(names)} names.")
    if len(steps) != len(rows):
        raise MftcoderError(f"steps: must number the {len(rows)} rows of losses; found {len(steps)}.")
    every_steps = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
    method = build(_replayable(weighting), TaskSet(names), every_steps=every_steps)
    if step0_losses is not None:
        method.observe("baseline", 0, _losses(_checked(step0_losses, num_tasks)))

    history = []
    for step, row in zip(steps, rows, strict=True):
        # In this order: to FAMO a row is first what the batch before became, then a batch of its own.
        for kind in ("replay", "train", "validation"):
            method.observe(kind, step, _losses(row))
        history.append(_moment(method, step + 1, np.ones(num_tasks)))
    return {name: np.array([moment[name] for moment in history]) for name in history[0]}


def _moment(method: TaskWeighting, next_step: int, units: Vector) -> dict[str, Vector]:
    seen, weights = method.diagnostics(), method.weights(next_step, units)
    if isinstance(method, Famo):  # its paper calls z the weights of the tasks
        return {"weights": seen.pop("z"), "coefficients": weights, **seen}
    return {"weights": weights, **seen}


def _replayable(weighting: Mapping[str, Any]) -> schema.Weighting:
    config = parse(weighting)
    if isinstance(config, schema.GradNorm | schema.GradNormValid):
        raise MftcoderError(
            f"weighting: {config.type} watches gradient norms, which recorded losses do not hold. Replay another one."
        )
    paper = isinstance(config, schema.CoBa) and config.preset == "paper" and config
    if paper and None in (paper.window_steps, paper.warmup_steps):
        raise MftcoderError(
            'weighting: the preset "paper" counts its steps in mini-batches of the validation data, which recorded '
            "losses do not tell. Give window_steps and warmup_steps."
        )
    return config


def _checked(step0_losses: ArrayLike, num_tasks: int) -> Vector:
    first = np.array(step0_losses, dtype=np.float64)
    if first.shape != (num_tasks,):
        raise MftcoderError(f"step0_losses: must hold {num_tasks} losses, one per task; found the shape {first.shape}.")
    return first


def _losses(values: Vector) -> TaskLosses:
    return TaskLosses(values, ~np.isnan(values))
