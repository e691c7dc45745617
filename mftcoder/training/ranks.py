"""Which rank holds up the others: what each needs for itself, compared at every line of metrics.jsonl.

Ranks wait for each other in every step, so the time of a step is the same for all; what tells them apart is the time of
their own forward passes and of waiting for their data. Under ZeRO-3 a forward pass gathers weights, and so has waiting
for slow ranks in it: there only slow data are told apart.
"""

import socket
import statistics
from dataclasses import dataclass

import numpy as np

from mftcoder.distributed import Group
from mftcoder.losses.weighting import Vector

SLOW = 1.5  # times the median of the ranks
IN_A_ROW = 3  # comparisons, before it is told
MIN_SECONDS = 0.2  # of difference: shorter steps differ by chance


@dataclass(frozen=True)
class SlowRank:
    """A rank that needed ``seconds`` of its own while half of the ranks needed ``median`` or less."""

    rank: int
    host: str
    seconds: float
    median: float

    def __str__(self) -> str:
        return (
            f"rank {self.rank} on {self.host} is slow: {self.seconds:.2f} s of its own, where half of the ranks need "
            f"{self.median:.2f} s or less. All wait for it."
        )


class RankTimes:
    """Compares the ranks of ``group``. Made and used by all of them together."""

    def __init__(self, group: Group) -> None:
        self._group, self._hosts = group, group.gather(socket.gethostname())
        self._suspect, self._in_a_row = -1, 0

    def compare(self, data_seconds: float) -> tuple[Vector, SlowRank | None]:
        """[ranks]: the seconds of their own since it was called last; and a rank that is slow again and again, once.

        One collective, if there are several ranks. ``data_seconds`` is what this rank waited for its data.
        """
        seconds = np.array(self._group.gather(self._group.own_work.take() + data_seconds))
        # The lower one: of two nodes one may be slow, and with it half of the ranks.
        slowest, median = int(seconds.argmax()), statistics.median_low(seconds.tolist())
        if seconds[slowest] < max(SLOW * median, median + MIN_SECONDS):
            slowest = -1
        self._in_a_row = self._in_a_row + 1 if slowest == self._suspect else 1
        self._suspect = slowest
        if slowest < 0 or self._in_a_row != IN_A_ROW:
            return seconds, None
        return seconds, SlowRank(slowest, self._hosts[slowest], float(seconds[slowest]), median)
