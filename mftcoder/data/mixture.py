"""Which row comes when: a pure function of (seed, position), with random access.

Positions count rows from the start of training, over all ranks. Every epoch holds every row of every task exactly once,
in an order of its own. Nothing here knows of ranks, so the order is the same on any number of them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.permutation import permutation


@dataclass(frozen=True)
class Mixture:
    """Proportional sampling: the rows of all tasks, shuffled together once per epoch."""

    rows_per_task: tuple[int, ...]
    seed: int

    def __len__(self) -> int:
        """Rows per epoch."""
        return sum(self.rows_per_task)

    def row(self, position: int) -> tuple[int, int]:
        """The (task id, row within the task) at ``position``."""
        epoch, offset = divmod(position, len(self))
        index = int(_order(len(self), self.seed, epoch)[offset])
        starts = np.cumsum((0, *self.rows_per_task))
        task = int(np.searchsorted(starts, index, side="right")) - 1
        return task, index - int(starts[task])


@lru_cache(maxsize=2)
def _order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return permutation(num_rows, seed, epoch)
