"""What every task weighting has in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mftcoder.errors import MftcoderError
from mftcoder.tasks import TaskSet

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class TaskLosses:
    """The losses of all tasks at one moment, already summed over ranks."""

    values: Vector  # [K] nats per unit; NaN where a task was absent, not finite where its sum was not
    present: NDArray[np.bool_]  # [K]; absent means that the task had no unit, never that its loss was 0
    mini_batch: int = 0  # which part of the probe they are of, where it is looked at in parts
    standard_errors: Vector | None = None  # [K] of values, from how samples differ; where it was asked for

    @property
    def usable(self) -> Vector:
        """[K]: the values, NaN where a task is absent or its loss is not finite."""
        return np.where(self.present & np.isfinite(self.values), self.values, np.nan)

    @property
    def missing(self) -> Vector:
        """[K]: 1 where a task is present but its loss is not finite, else 0."""
        return (self.present & ~np.isfinite(self.values)).astype(np.float64)

    @classmethod
    def of(cls, totals: Vector, units: Vector) -> "TaskLosses":
        """From sums of nats [K] and counts of units [K]."""
        present = units > 0
        values = np.divide(totals, units, out=np.full(len(units), np.nan), where=present)
        return cls(values, present)


class TaskWeighting(Protocol):
    """Maps what was observed to a weight per task. Knows nothing of ranks, models or files.

    The weights are a simplex: none is negative, and together they are 1 (``uncertainty`` alone has another scale). With
    one task its weight is exactly 1. What is observed, by kind, as ``TaskLosses``:

    - "train": the losses of step t's batch before the update, observed after it.
    - "replay": the losses of the same batch, with the same dropout, after the update; directly after "train".
    - "gradient_norm": the norm of each task's own, unweighted gradient on the same batch before the update; after
      "train".
    - "validation": the losses on the probe before step t.
    - "baseline": the losses on (a mini-batch of) the probe before the first step, as l(0) and nothing else. Without it
      l(0) is the first loss that is observed.
    """

    observes: frozenset[str]  # of the kinds above

    def weights(self, step: int, units: Vector) -> Vector:
        """[K] weights of optimizer step ``step``, in which each task has ``units`` [K] units.

        Zero where a task is absent (no unit), summing to 1 over the tasks present; the state does not change.
        """
        ...

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of ``losses``, which are of kind ``kind`` and belong to step ``step``.

        A ``kind`` that is not in ``observes`` is ignored. The state of a task that is absent, or whose loss is not
        finite, stays as it is.
        """
        ...

    def diagnostics(self) -> dict[str, Vector]:
        """What to log beside the weights: name to [K] or [], NaN while undefined (CoBa: slopes, rcs, acs, df, …)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values; floats survive a round trip through JSON bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; MftcoderError if it belongs to other tasks."""
        ...


class Stateless:
    """The part of TaskWeighting that is empty for weightings which observe nothing."""

    observes: frozenset[str] = frozenset()

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Nothing is observed."""

    def diagnostics(self) -> dict[str, Vector]:
        """Nothing to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """No state."""


class Stateful:
    """The state of weightings that observe: arrays over the tasks, saved together with the tasks' names."""

    _ARRAYS: tuple[str, ...]  # the attributes that are the state

    def __init__(self, tasks: TaskSet) -> None:
        self.tasks = tasks
        self.missing = np.zeros(len(tasks))  # how many losses of each task were not finite

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values, with the names of the tasks."""
        return {"tasks": list(self.tasks), **{name: to_json(getattr(self, name)) for name in self._ARRAYS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; MftcoderError if it belongs to other tasks."""
        if tuple(state["tasks"]) != self.tasks.names:
            raise MftcoderError(
                f"loss.weighting: the saved state is of {len(state['tasks'])} tasks ({', '.join(state['tasks'])}), but "
                f"the run has {len(self.tasks)} ({', '.join(self.tasks)}). Resume with the same tasks, in that order."
            )
        for name in self._ARRAYS:
            setattr(self, name, np.array(state[name], dtype=np.float64))


def softmax(scores: Vector) -> Vector:
    """Softmax over the only axis."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def over_known(known: NDArray[np.bool_], shares: Vector, rest: Vector) -> Vector:
    """[K], a simplex: tasks that are not ``known`` [K] weigh as in ``rest`` [K], another one; ``shares`` [n], a third,
    divide what is left among the n that are.
    """
    if known.all():
        return shares
    weights = rest.copy()
    weights[known] = rest[known].sum() * shares
    return weights


def by_task(tasks: TaskSet, given: Mapping[str, float], default: float, key: str) -> Vector:
    """[K]: the ``given`` number of each task, or ``default``; MftcoderError that names ``key`` for unknown tasks."""
    if unknown := [name for name in given if name not in tasks.names]:
        raise MftcoderError(f"{key}: {', '.join(unknown)} are no tasks; the tasks are {', '.join(tasks)}.")
    return np.array([given.get(name, default) for name in tasks], dtype=np.float64)


def with_floor(weights: Vector, floor: float) -> Vector:
    """``weights`` [K], a simplex, mixed so that each is at least ``floor``; equal ones stay equal to the last bit."""
    return weights + floor * (1 - len(weights) * weights)


def check_floor(floor: float, num_tasks: int) -> None:
    """MftcoderError if ``floor`` leaves nothing to share."""
    if num_tasks * floor >= 1:
        raise MftcoderError(
            f"loss.weighting.floor: must be below 1 / (number of tasks) = {1 / num_tasks:.4g}; found {floor}. "
            "Choose a lower one."
        )


def over_present(weights: Vector, units: Vector) -> Vector:
    """``weights`` [K], a simplex, renormalised over the tasks with ``units`` [K] > 0.

    Uniform over them if all those weights are 0; all zero if no task is present.
    """
    present = units > 0
    if present.all():  # nothing to renormalise: dividing by a sum that is 1 up to rounding would only add noise
        return weights.copy()
    kept = np.where(present, weights, 0.0)
    if not kept.any():
        kept = present.astype(np.float64)
    return kept / (kept.sum() or 1.0)


def ratios_to_first(base: Vector, losses: TaskLosses) -> tuple[Vector, Vector]:
    """``losses`` as ratios to each task's first usable loss ``base`` [K], NaN where there has been none.

    Returns the base [K], completed by tasks that are seen for the first time, and the ratios [K]: NaN where a task is
    absent or its loss is not finite. A first loss that is not positive cannot be a base and counts as missing.
    """
    values = losses.usable
    base = np.where(np.isnan(base) & (values > 0), values, base)
    return base, values / base


def to_json(values: Vector) -> Any:
    """``values`` as nested lists of numbers, None for NaN; ``np.array(…, dtype=np.float64)`` is its exact inverse."""
    nested = values.astype(object)
    nested[np.isnan(values)] = None
    return nested.tolist()
