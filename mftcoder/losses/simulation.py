"""Replaying recorded losses through a weighting: what it would have done, without a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.losses.weighting.base import Vector, ratios_to_first
from mftcoder.losses.weighting.coba import CoBa
from mftcoder.tasks import TaskSet


def simulate(
    weighting: Mapping[str, Any],
    losses: ArrayLike,
    *,
    step0_losses: ArrayLike | None = None,
    interval: int = 1,
    tasks: Sequence[str] | None = None,
) -> dict[str, Vector]:
    """The weights that follow from ``losses`` [T, K] (validation, nats; NaN: the task was absent).

    Row t is observed at step t · ``interval``; the weights after that observation are row t. ``weighting`` is the
    section ``loss.weighting`` of a config; ``step0_losses`` [K], if given, are l(0) and nothing else, otherwise l(0) is
    each task's first finite loss. ``tasks`` names the tasks (task-1, task-2, …). All tasks are taken to be present in
    every step, with equally many units.

    Returns "weights" [T, K] and what the weighting has as diagnostics, NaN while undefined: for CoBa "slopes", "rcs",
    "acs", "ratios", "missing" [T, K] and "df" [T].

    Raises:
        MftcoderError: ``weighting`` or a shape is wrong.
    """
    rows = np.array(losses, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise MftcoderError(f"losses: must be an array of steps by tasks, neither empty; found the shape {rows.shape}.")
    num_tasks = rows.shape[1]
    names = tuple(tasks) if tasks is not None else tuple(f"task-{i + 1}" for i in range(num_tasks))
    if len(names) != num_tasks:
        raise MftcoderError(f"tasks: the losses are of {num_tasks} tasks; found {len(names)} names.")
    method = build(_config(weighting), TaskSet(names))
    if step0_losses is not None and isinstance(method, CoBa):
        method.base, _ = ratios_to_first(method.base, _losses(_checked(step0_losses, num_tasks)))

    units = np.ones(num_tasks)
    history = []
    for t, row in enumerate(rows):
        method.observe("validation", t * interval, _losses(row))
        history.append({"weights": method.weights(t * interval, units), **method.diagnostics()})
    return {name: np.array([moment[name] for moment in history]) for name in history[0]}


def _config(weighting: Mapping[str, Any]) -> schema.Weighting:
    try:
        return TypeAdapter(schema.Weighting).validate_python(dict(weighting))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise MftcoderError(f"weighting: {'; '.join(problems)}.") from None


def _checked(step0_losses: ArrayLike, num_tasks: int) -> Vector:
    first = np.array(step0_losses, dtype=np.float64)
    if first.shape != (num_tasks,):
        raise MftcoderError(f"step0_losses: must hold {num_tasks} losses, one per task; found the shape {first.shape}.")
    return first


def _losses(values: Vector) -> TaskLosses:
    return TaskLosses(values, ~np.isnan(values))
