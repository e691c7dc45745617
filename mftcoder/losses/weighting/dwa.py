"""DWA, Dynamic Weight Averaging (Liu, Johns and Davison, CVPR 2019): a task weighs by how slowly its loss falls."""

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector, over_present, softmax
from mftcoder.tasks import TaskSet


def rates(older: Vector, newer: Vector) -> Vector:
    """r [K], the mean loss of a window over that of the one before; 1, which is neutral, without the two or after 0."""
    defined = np.isfinite(older) & np.isfinite(newer) & (older != 0)
    return np.divide(newer, older, out=np.ones(len(older)), where=defined)


class Dwa(Stateful):
    """The weights softmax(r / temperature), constant in windows of ``window_steps`` steps and uniform in the first two.

    A window's loss is the mean over those of its steps in which the task was present. A task that was absent from a
    whole window keeps the rate it had.
    """

    observes: frozenset[str] = frozenset({"train"})
    _ARRAYS = ("means", "sums", "window", "missing")

    def __init__(self, tasks: TaskSet, *, temperature: float, window_steps: int) -> None:
        """The settings are those of ``config.schema.Dwa``."""
        super().__init__(tasks)
        self.temperature = temperature
        self.window_steps = window_steps
        self.means = np.full((2, len(tasks)), np.nan)  # of each task's last two finished windows, the newer last
        self.sums = np.zeros((2, len(tasks)))  # of the window under way: losses, and how many
        self.window = np.array(0.0)  # its number

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: the weights of the window that ``step`` lies in, renormalised over the tasks present."""
        means = self.means if step // self.window_steps <= self.window else self._finished()
        return over_present(softmax(rates(*means) / self.temperature), units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of training losses, in the order of steps."""
        if kind not in self.observes:
            return
        self.missing = self.missing + losses.missing
        if step // self.window_steps > self.window:
            self.means, self.sums = self._finished(), np.zeros_like(self.sums)
            self.window = np.array(float(step // self.window_steps))
        usable = losses.usable
        self.sums = self.sums + np.stack([np.nan_to_num(usable), np.isfinite(usable)])

    def _finished(self) -> Vector:
        """What ``means`` is once the window under way is over."""
        totals, counts = self.sums
        seen = counts > 0
        mean = np.divide(totals, counts, out=np.full(len(totals), np.nan), where=seen)
        return np.where(seen, [self.means[1], mean], self.means)

    def diagnostics(self) -> dict[str, Vector]:
        """rates, missing [K]."""
        return {"rates": rates(*self.means), "missing": self.missing}
