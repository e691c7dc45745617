"""Weights that the user gives: one number per task."""

from collections.abc import Mapping

import numpy as np

from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting.base import Stateless, Vector
from mftcoder.tasks import TaskSet


class Given(Stateless):
    """Fixed weights, normalised to sum 1.

    A task of weight 0 is never trained: a step in which only such tasks are present has weights of all zero.
    """

    def __init__(self, tasks: TaskSet, *, weights: Mapping[str, float]) -> None:
        """``weights`` maps every task to a number >= 0; MftcoderError if it names others or if all are 0."""
        if set(weights) != set(tasks):
            raise MftcoderError(
                f"loss.weighting.weights: must name every task once; found {', '.join(weights) or 'none'}. "
                f"The tasks are {', '.join(tasks)}."
            )
        self._weights = np.array([weights[name] for name in tasks], dtype=np.float64)
        if not self._weights.any():
            raise MftcoderError("loss.weighting.weights: found 0 for every task. Give at least one a positive weight.")

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: the given weights, normalised over the tasks present."""
        kept = np.where(units > 0, self._weights, 0.0)
        return kept / (kept.sum() or 1.0)
