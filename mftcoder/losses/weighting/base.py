"""What every task weighting has in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class TaskLosses:
    """The losses of all tasks at one moment, already summed over ranks."""

    values: Vector  # [K] nats per unit; NaN where a task was absent, not finite where its sum was not
    present: NDArray[np.bool_]  # [K]; absent means that the task had no unit, never that its loss was 0

    @classmethod
    def of(cls, totals: Vector, units: Vector) -> "TaskLosses":
        """From sums of nats [K] and counts of units [K]."""
        present = units > 0
        values = np.divide(totals, units, out=np.full(len(units), np.nan), where=present)
        return cls(values, present)


class TaskWeighting(Protocol):
    """Maps what was observed to a weight per task. Knows nothing of ranks, models or files.

    The weights are a simplex: none is negative, and together they are 1. With one task its weight is exactly 1.
    """

    observes: frozenset[str]  # of {"train", "validation"}

    def weights(self, step: int, units: Vector) -> Vector:
        """[K] weights of optimizer step ``step``, in which each task has ``units`` [K] units.

        Zero where a task is absent (no unit), summing to 1 over the tasks present; the state does not change.
        """
        ...

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of ``losses``, seen before step ``step`` ("validation") or at it ("train").

        A ``kind`` that is not in ``observes`` is ignored.
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
    values = np.where(losses.present & np.isfinite(losses.values), losses.values, np.nan)
    base = np.where(np.isnan(base) & (values > 0), values, base)
    return base, values / base


def to_json(values: Vector) -> Any:
    """``values`` as nested lists of numbers, None for NaN; ``np.array(…, dtype=np.float64)`` is its exact inverse."""
    nested = values.astype(object)
    nested[np.isnan(values)] = None
    return nested.tolist()
