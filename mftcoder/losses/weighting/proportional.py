"""Weights in proportion to the data: ordinary supervised fine-tuning on the mixed tasks (MFTCoder's SFT-Mixed)."""

import numpy as np

from mftcoder.losses.weighting.base import Stateless, Vector
from mftcoder.tasks import TaskSet


class Proportional(Stateless):
    """Every task weighs by its units in the step, so that every unit of the step counts the same."""

    def __init__(self, tasks: TaskSet) -> None:
        self._num_tasks = len(tasks)

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: each task's share of the step's units; all zero if there is none."""
        return np.asarray(units, dtype=np.float64) / (np.sum(units) or 1)
