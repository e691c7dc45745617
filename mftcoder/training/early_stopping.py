"""When to stop: the mean over tasks of validation losses, each as a ratio to its first, has not improved for too long.

Ratios count every task the same, whatever its loss in nats, so that no task decides alone.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mftcoder.losses.weighting.base import TaskLosses, Vector, ratios_to_first, to_json

ROUNDING = 1e-9  # epochs; 2.3 - 0.3 is less than 2 in floating point


class EarlyStopping:
    """Watches evaluations; says whether the last one was the best and whether to go on.

    Tasks that are absent or whose loss is not finite are left out of the mean; if none is left the evaluation does not
    count. Without ``patience`` it never stops, but still knows the best.

    Attributes:
        best: the lowest mean ratio so far; None before the first evaluation that counts.
        best_step: the step of it.
        ratios: [K] of the last evaluation, NaN where left out; None before the first.
    """

    def __init__(self, patience: int | None, unit: Literal["evaluations", "epochs"]) -> None:
        self.patience = patience
        self.unit = unit
        self.best: float | None = None
        self.best_step: int | None = None
        self.ratios: Vector | None = None
        self._base: Vector | None = None
        self._evaluations_since_best = 0
        self._best_epoch = self._last_epoch = 0.0

    def observe(self, step: int, epoch: float, losses: TaskLosses) -> bool:
        """Take note of the validation ``losses`` after ``step`` steps and ``epoch`` epochs; True if the best."""
        base = np.full(len(losses.values), np.nan) if self._base is None else self._base
        self._base, self.ratios = ratios_to_first(base, losses)
        if np.isnan(self.ratios).all():
            return False
        score = float(np.nanmean(self.ratios))
        self._last_epoch = epoch
        self._evaluations_since_best += 1
        if self.best is not None and score >= self.best:
            return False
        self.best, self.best_step, self._best_epoch = score, step, epoch
        self._evaluations_since_best = 0
        return True

    @property
    def should_stop(self) -> bool:
        """Whether ``patience`` evaluations or epochs have passed since the best evaluation."""
        if self.patience is None:
            return False
        if self.unit == "epochs":
            return self._last_epoch - self._best_epoch >= self.patience - ROUNDING
        return self._evaluations_since_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values; floats survive a round trip through JSON bit for bit."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "ratios": None if self.ratios is None else to_json(self.ratios),
            "base": None if self._base is None else to_json(self._base),
            "evaluations_since_best": self._evaluations_since_best,
            "best_epoch": self._best_epoch,
            "last_epoch": self._last_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.ratios, self._base = (
            None if state[name] is None else np.array(state[name], dtype=np.float64) for name in ("ratios", "base")
        )
        self._evaluations_since_best = state["evaluations_since_best"]
        self._best_epoch, self._last_epoch = state["best_epoch"], state["last_epoch"]
