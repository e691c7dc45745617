"""Multiplicative weights on what is left to learn, as in Velocitune (Luo et al., 2024, arXiv 2411.14318) and the task
half of GRAPE (Fan et al., 2025, arXiv 2505.20380).

A task's velocity v = (l - l*) / (l(0) - l*) is the share of the way to its target l* that lies ahead. Every look at the
probe multiplies its weight by exp(learning_rate · v): tasks that lag gain. There is no window and no slope.
"""

from collections.abc import Mapping

import numpy as np

from mftcoder.losses.weighting.base import (
    Stateful,
    TaskLosses,
    Vector,
    by_task,
    check_floor,
    over_known,
    over_present,
    ratios_to_first,
    softmax,
    with_floor,
)
from mftcoder.tasks import TaskSet


def velocities(base: Vector, losses: Vector, targets: Vector) -> Vector:
    """v [K], at least 0, from l(0), l and l*; 0 for a task that began at its target, NaN for one without a loss."""
    ahead = np.divide(losses - targets, base - targets, out=np.zeros(len(losses)), where=base > targets)
    return np.where(np.isnan(losses), np.nan, np.maximum(ahead, 0.0))


class Multiplicative(Stateful):
    """The weights prior · exp(learning_rate · Σ v), normalised, then at least ``floor``.

    Only differences count, so each v is taken from the mean of those seen with it: a task whose loss is missing at a
    look neither gains nor loses. A task that was never seen keeps its share of the prior.
    """

    observes: frozenset[str] = frozenset({"baseline", "validation"})
    _ARRAYS = ("base", "velocities", "total", "missing")

    def __init__(
        self,
        tasks: TaskSet,
        *,
        learning_rate: float,
        prior: Mapping[str, float],
        target_losses: Mapping[str, float],
        floor: float,
    ) -> None:
        """The settings are those of ``config.schema.Multiplicative``; MftcoderError for unknown tasks or no room."""
        super().__init__(tasks)
        check_floor(floor, len(tasks))
        self.learning_rate = learning_rate
        self.floor = floor
        prior_weights = by_task(tasks, prior, 1.0, "loss.weighting.prior")
        self._prior = prior_weights / prior_weights.sum()
        self._targets = by_task(tasks, target_losses, 0.0, "loss.weighting.target_losses")
        self.base = self.velocities = self.total = np.full(len(tasks), np.nan)  # total: Σ v, each from its mean

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: the weights of the last observation, renormalised over the tasks present."""
        known = np.isfinite(self.total)
        if not known.any():
            return over_present(with_floor(self._prior, self.floor), units)
        shares = softmax(np.log(self._prior[known]) + self.learning_rate * self.total[known])
        return over_present(with_floor(over_known(known, shares, rest=self._prior), self.floor), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of validation losses."""
        if kind not in self.observes:
            return
        self.base, _ = ratios_to_first(self.base, losses)
        if kind == "baseline":
            return
        self.missing = self.missing + losses.missing
        v = velocities(self.base, np.where(np.isnan(self.base), np.nan, losses.usable), self._targets)
        seen = np.isfinite(v)
        if seen.any():
            self.velocities = np.where(seen, v, self.velocities)
            self.total = np.where(seen, np.nan_to_num(self.total) + v - v[seen].mean(), self.total)

    def diagnostics(self) -> dict[str, Vector]:
        """velocities, missing [K]."""
        return {"velocities": self.velocities, "missing": self.missing}
