"""Uniform weights: the data-balanced loss (MFTCoder, Liu et al., KDD 2024, Eq. 1)."""

import numpy as np

from mftcoder.losses.weighting.base import Stateless, Vector, over_present
from mftcoder.tasks import TaskSet


class Uniform(Stateless):
    """Every task weighs 1/K, whatever its share of the data."""

    def __init__(self, tasks: TaskSet) -> None:
        self._weights = np.full(len(tasks), 1 / len(tasks))

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: 1 / (tasks present) for each task present."""
        return over_present(self._weights, units)
