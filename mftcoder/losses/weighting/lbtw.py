"""LBTW, Loss-Balanced Task Weighting (Liu et al., AAAI 2019): a task weighs by how little its loss has fallen."""

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector, over_known, over_present, ratios_to_first
from mftcoder.tasks import TaskSet


def balance(ratios: Vector, exponent: float) -> Vector:
    """Weights [K] in proportion to (l / l(0))^exponent; 1/K for a task without a ratio (NaN)."""
    known, equal = np.isfinite(ratios), np.full(len(ratios), 1 / len(ratios))
    powers = np.maximum(ratios[known], 0.0) ** exponent
    if not powers.any():
        return equal
    powers = powers / powers.max()  # so that equal ones give exactly equal shares
    return over_known(known, powers / powers.sum(), rest=equal)


class Lbtw(Stateful):
    """Weights from the last training losses; l(0) is each task's first one and stays."""

    observes: frozenset[str] = frozenset({"baseline", "train"})
    _ARRAYS = ("base", "ratios", "missing")

    def __init__(self, tasks: TaskSet, *, exponent: float) -> None:
        """The settings are those of ``config.schema.Lbtw``."""
        super().__init__(tasks)
        self.exponent = exponent
        self.base = self.ratios = np.full(len(tasks), np.nan)

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: the weights of the last observation, renormalised over the tasks present."""
        return over_present(balance(self.ratios, self.exponent), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of losses; a task without a usable one keeps its last ratio."""
        if kind not in self.observes:
            return
        self.base, ratios = ratios_to_first(self.base, losses)
        if kind == "baseline":
            return
        self.missing = self.missing + losses.missing
        self.ratios = np.where(np.isnan(ratios), self.ratios, ratios)

    def diagnostics(self) -> dict[str, Vector]:
        """ratios, missing [K]."""
        return {"ratios": self.ratios, "missing": self.missing}


class LbtwValid(Lbtw):
    """LBTW*: the same from the losses on the probe."""

    observes: frozenset[str] = frozenset({"baseline", "validation"})
