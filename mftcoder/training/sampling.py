"""Weights that also sample: tasks that weigh more give more rows, so that no pass is spent on rows that hardly count.

A step's rows are shared out in proportion to p_i ∝ π_i^(1-s) · ω_i^s, with π_i the task's share of all rows and ω_i its
weight. The loss divides by each task's units in the step, so what a task counts stays its weight: sampling changes how
well its loss is known, not what is minimised. Epochs are then those of each task by itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.permutation import permutation
from mftcoder.losses.weighting import Vector
from mftcoder.training.probe import RowNumbers


class WeightedSampling:
    """Deals out rows. What it dealt depends on the weights it was shown, so its state goes into the checkpoint."""

    def __init__(self, rows_per_task: tuple[int, ...], rows_per_step: int, share: float, seed: int) -> None:
        """``share`` is s: 0 samples by the number of rows, 1 by the weights alone."""
        self._rows_per_task, self._rows_per_step = np.array(rows_per_task), rows_per_step
        self._share, self._seed = share, seed
        self._orders: dict[
            int, tuple[int, NDArray[np.int64]]
        ] = {}  # task -> its latest epoch and the order of its rows
        self.dealt = np.zeros(len(rows_per_task), np.int64)  # rows of each task so far
        self.credit = np.zeros(len(rows_per_task))  # rows that a task is owed, by what was rounded
        self.latest: tuple[int, RowNumbers] = (-1, [])  # a step and its rows: drawn ahead, it may not be taken yet

    def rows(self, step: int, weights: Vector, trains: NDArray[np.bool_]) -> RowNumbers:
        """The rows of ``step``, the one after the last: drawn once, and given again if asked for again.

        Args:
            weights: [K], ω.
            trains: [K], the tasks that may be sampled.
        """
        if self.latest[0] == step:
            return self.latest[1]
        natural = self._rows_per_task / self._rows_per_task.sum()
        wanted = np.where(trains, natural ** (1 - self._share) * np.maximum(weights, 0.0) ** self._share, 0.0)
        wanted = wanted if wanted.any() else natural
        self.credit += self._rows_per_step * wanted / wanted.sum()
        rows: RowNumbers = []
        for _ in range(self._rows_per_step):
            task = int(np.argmax(np.where(wanted > 0, self.credit, -np.inf)))
            self.credit[task] -= 1
            rows.append((task, self._next_row(task)))
        self.latest = (step, rows)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values."""
        return {"dealt": self.dealt.tolist(), "credit": self.credit.tolist(), "latest": self.latest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.dealt, self.credit = np.array(state["dealt"], np.int64), np.array(state["credit"], np.float64)
        step, rows = state["latest"]
        self.latest = (step, [(task, row) for task, row in rows])

    def _next_row(self, task: int) -> int:
        epoch, place = divmod(int(self.dealt[task]), int(self._rows_per_task[task]))
        if self._orders.get(task, (-1,))[0] != epoch:
            self._orders[task] = (epoch, permutation(int(self._rows_per_task[task]), self._seed, task, epoch))
        self.dealt[task] += 1
        return int(self._orders[task][1][place])
