"""Uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018): each task has a learned log-variance s.

The objective is Σ l_i / (2 exp(s_i)) + s_i / 2. Its derivative by s needs no more than the losses, so s is no parameter
of the model.
"""

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector
from mftcoder.tasks import TaskSet

LOSS_FLOOR = 1e-8  # nats; a task without loss would send its s to minus infinity
LARGEST_MOVE = 1.0  # of s in one step; a sudden large loss after tiny ones would end a task's weight for good


def gradient(log_variances: Vector, losses: Vector) -> Vector:
    """∂/∂s [K] of Σ l / (2 exp(s)) + s / 2."""
    return 0.5 - losses * weights_of(log_variances)


def weights_of(log_variances: Vector) -> Vector:
    """What each loss counts, 1 / (2 exp(s)) [K]."""
    return 0.5 * np.exp(-log_variances)


class Uncertainty(Stateful):
    """The weights 1 / (2 exp(s)), which are no simplex; with one task its weight is 1, as in every weighting."""

    observes: frozenset[str] = frozenset({"train"})
    _ARRAYS = ("log_variances", "missing")

    def __init__(self, tasks: TaskSet, *, learning_rate: float) -> None:
        """The settings are those of ``config.schema.Uncertainty``."""
        super().__init__(tasks)
        self.learning_rate = learning_rate
        self.log_variances = np.zeros(len(tasks))

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: zero where a task is absent; not renormalised."""
        weights = weights_of(self.log_variances) if len(self.tasks) > 1 else np.ones(1)
        return np.where(units > 0, weights, 0.0)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """One step of gradient descent on the s of every task with a usable training loss."""
        if kind not in self.observes:
            return
        self.missing = self.missing + losses.missing
        usable = losses.usable
        slope = gradient(self.log_variances, np.maximum(np.nan_to_num(usable), LOSS_FLOOR))
        move = np.clip(-self.learning_rate * slope, -LARGEST_MOVE, LARGEST_MOVE)
        self.log_variances = self.log_variances + np.where(np.isnan(usable), 0.0, move)

    def diagnostics(self) -> dict[str, Vector]:
        """log_variances, missing [K]."""
        return {"log_variances": self.log_variances, "missing": self.missing}
