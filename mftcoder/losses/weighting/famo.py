"""FAMO (Liu et al., NeurIPS 2023) and FAMO*, the same on validation losses (MFTCoder, Liu et al., KDD 2024, Eq. 4).

With z = softmax(ξ) and D_i = l_i - min l_i, FAMO trains on Σ c z_i log D_i, whose gradient is that of Σ a_i l_i with
a_i ∝ z_i / D_i. After each step ξ descends along the change of log D of the same batch, so that the tasks improve at
equal rates. FAMO* takes that change from validation losses and trains on Σ z_i l_i.
"""

from collections.abc import Mapping

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector, by_task, over_known, over_present, softmax
from mftcoder.tasks import TaskSet

LOSS_FLOOR = 1e-8  # nats; the constant of the authors' code
BETAS, EPSILON = (0.9, 0.999), 1e-8


def logit_gradient(logits: Vector, before: Vector, after: Vector) -> Vector:
    """Gradient at ``logits`` [K] from the distances D [K] of the same batch before and after a step."""
    progress = np.log(before) - np.log(after)
    z = softmax(logits)
    return z * (progress - z @ progress)


def coefficients(logits: Vector, distances: Vector) -> Vector:
    """a [K], what training multiplies the losses with; z_i for a task whose distance D is NaN, not known yet."""
    known = np.isfinite(distances)
    if not known.any():
        return softmax(logits)
    return over_known(known, softmax(logits[known] - np.log(distances[known])), rest=softmax(logits))


def adam(moments: Vector, gradient: Vector) -> tuple[Vector, Vector]:
    """One step of Adam (Kingma and Ba, 2015): the new moments and the direction [K] to go against.

    Args:
        moments: [3, K], first moment, second moment, and steps taken. Every task counts its own steps.
        gradient: [K]; a task with NaN takes no step.
    """
    taking = np.isfinite(gradient)
    (first, second, count), (beta1, beta2) = moments, BETAS
    stepped = np.stack([beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2, count + 1])
    first, second, count = moments = np.where(taking, stepped, moments)
    count = np.maximum(count, 1)
    direction = first / (1 - beta1**count) / (np.sqrt(second / (1 - beta2**count)) + EPSILON)
    return moments, np.where(taking, direction, 0.0)


class _Logits(Stateful):
    """The part that FAMO and FAMO* share: ξ and how it moves."""

    def __init__(
        self, tasks: TaskSet, *, learning_rate: float, decay: float, minimum_losses: Mapping[str, float]
    ) -> None:
        super().__init__(tasks)
        self.learning_rate = learning_rate
        self.decay = decay
        self._minimum = by_task(tasks, minimum_losses, 0.0, "loss.weighting.minimum_losses")
        self.logits = np.zeros(len(tasks))  # ξ
        self.moments = np.zeros((3, len(tasks)))
        self.last = np.full(len(tasks), np.nan)  # the last distances D that were seen

    def _distances(self, losses: TaskLosses) -> Vector:
        """D [K], NaN where there is no usable loss or where it lies below the minimum."""
        distances = losses.usable - self._minimum + LOSS_FLOOR
        self.missing = self.missing + losses.missing
        return np.where(distances > 0, distances, np.nan)

    def _descend(self, before: Vector, after: Vector) -> None:
        """Move ξ as if the tasks with both distances were all there are; the others stay where they are."""
        paired = np.isfinite(before) & np.isfinite(after)
        if not paired.any():
            return
        gradient = np.full(len(self.tasks), np.nan)
        logits = self.logits[paired]
        gradient[paired] = logit_gradient(logits, before[paired], after[paired]) + self.decay * logits
        self.moments, direction = adam(self.moments, gradient)
        self.logits = self.logits - self.learning_rate * direction

    def diagnostics(self) -> dict[str, Vector]:
        """z, missing [K]."""
        return {"z": softmax(self.logits), "missing": self.missing}


class Famo(_Logits):
    """The weights a_i ∝ z_i / D_i, with D of the last losses that were reduced: after the previous step.

    No loop knows a step's losses before its backward pass. Until a task has been seen its weight is z_i.
    """

    observes: frozenset[str] = frozenset({"train", "replay"})
    _ARRAYS = ("logits", "moments", "last", "before", "missing")

    def __init__(
        self, tasks: TaskSet, *, learning_rate: float, decay: float, minimum_losses: Mapping[str, float]
    ) -> None:
        """The settings are those of ``config.schema.Famo``; MftcoderError if they name unknown tasks."""
        super().__init__(tasks, learning_rate=learning_rate, decay=decay, minimum_losses=minimum_losses)
        self.before = np.full(len(tasks), np.nan)  # D of the step whose replay is awaited

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: a, renormalised over the tasks present."""
        return over_present(coefficients(self.logits, self.last), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of the losses of a batch before its step ("train") and after it ("replay")."""
        if kind not in self.observes:
            return
        distances = self._distances(losses)
        if kind == "replay":
            self._descend(self.before, distances)
        self.before = distances if kind == "train" else np.full(len(self.tasks), np.nan)
        self.last = np.where(np.isnan(distances), self.last, distances)


class FamoValid(_Logits):
    """FAMO*: the weights z, moved by what the validation losses did between two looks at the same probe."""

    observes: frozenset[str] = frozenset({"validation"})
    _ARRAYS = ("logits", "moments", "last", "missing")

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: z, renormalised over the tasks present."""
        return over_present(softmax(self.logits), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of validation losses; a task is compared with its last usable one."""
        if kind not in self.observes:
            return
        distances = self._distances(losses)
        self._descend(self.last, distances)
        self.last = np.where(np.isnan(distances), self.last, distances)
