"""GradNorm (Chen et al., ICML 2018): weights under which the tasks' gradients are of the size their pace asks for.

With G_i = ω_i ‖∇l_i‖, their mean Ḡ, and r_i = l_i / l_i(0) over its mean, ω descends on Σ |G_i - Ḡ r_i^α|, in which
Ḡ r_i^α is held constant. The norms are of each task's own loss by some shared parameters; the loop says which.
"""

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector, over_present, ratios_to_first
from mftcoder.tasks import TaskSet

SMALLEST = 1e-3  # ω before it is renormalised: a weight of 0 has no gradient norm and could never return


def descend(omegas: Vector, norms: Vector, ratios: Vector, alpha: float, learning_rate: float) -> Vector:
    """ω [K] after one step of gradient descent, with the sum that it had.

    Args:
        omegas: [K].
        norms: [K], ‖∇l_i‖ without its weight.
        ratios: [K], l_i / l_i(0), none negative.
    """
    gradients = omegas * norms
    mean = ratios.mean()
    pace = ratios / mean if mean > 0 else np.ones(len(ratios))
    targets = gradients.mean() * pace**alpha
    moved = np.maximum(omegas - learning_rate * np.sign(gradients - targets) * norms, SMALLEST)
    moved = moved / moved.max()  # so that equal ones stay exactly equal
    return moved * (omegas.sum() / moved.sum())


class GradNorm(Stateful):
    """The weights ω / K, with the pace of each task from its training losses.

    A task that is absent from a step, or whose norm or loss is not finite, keeps its ω; the others share theirs anew.
    """

    observes: frozenset[str] = frozenset({"baseline", "train", "gradient_norm"})
    _ARRAYS = ("omegas", "base", "ratios", "missing")

    def __init__(self, tasks: TaskSet, *, alpha: float, learning_rate: float) -> None:
        """The settings are those of ``config.schema.GradNorm``."""
        super().__init__(tasks)
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.omegas = np.ones(len(tasks))
        self.base = self.ratios = np.full(len(tasks), np.nan)

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: ω / K, renormalised over the tasks present."""
        return over_present(self.omegas / len(self.tasks), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of losses, then, with the gradient norms of a step, move ω."""
        if kind not in self.observes:
            return
        if kind == "gradient_norm":
            self._descend(losses.usable)
            self.missing = self.missing + losses.missing
            return
        self.base, ratios = ratios_to_first(self.base, losses)
        if kind != "baseline":
            self.missing = self.missing + losses.missing
            self.ratios = np.where(np.isnan(ratios), self.ratios, np.maximum(ratios, 0.0))

    def _descend(self, norms: Vector) -> None:
        known = np.isfinite(norms) & np.isfinite(self.ratios)
        if known.sum() > 1:  # one task has nothing to be balanced with
            omegas = self.omegas.copy()
            omegas[known] = descend(omegas[known], norms[known], self.ratios[known], self.alpha, self.learning_rate)
            self.omegas = omegas

    def diagnostics(self) -> dict[str, Vector]:
        """ratios, missing [K]."""
        return {"ratios": self.ratios, "missing": self.missing}


class GradNormValid(GradNorm):
    """GradNorm*: the pace of each task from the losses on the probe; the norms are still those of training."""

    observes: frozenset[str] = frozenset({"baseline", "validation", "gradient_norm"})
