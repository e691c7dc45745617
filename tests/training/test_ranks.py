"""Naming the rank that holds up the others."""

import pytest

from mftcoder.distributed import Group
from mftcoder.training.ranks import IN_A_ROW, RankTimes, SlowRank


class Others(Group):
    """Rank 0 of four, whose ``gather`` gives what the test says of the others."""

    def gather(self, value):
        return [f"node-{rank}" for rank in range(4)] if isinstance(value, str) else [value, *self.rest]


def told(times: list[list[float]]) -> list[SlowRank]:
    """What is told after comparisons of these seconds of the four ranks."""
    group = Others(0, 4)
    ranks, found = RankTimes(group), []
    for own, *rest in times:
        object.__setattr__(group, "rest", rest)
        seconds, slow = ranks.compare(own)
        assert seconds.tolist() == pytest.approx([own, *rest], abs=0.01)
        found += [slow] if slow else []
    return found


def test_a_rank_that_is_slow_again_and_again_is_told_once_with_its_host():
    (slow,) = told([[1.0, 1.1, 2.0, 1.0]] * (2 * IN_A_ROW))
    assert (slow.rank, slow.host) == (2, "node-2")
    assert "rank 2 on node-2 is slow: 2.00 s of its own, where half of the ranks need 1.00 s or less" in str(slow)


def test_one_of_two_nodes_may_be_slow_and_half_of_the_ranks_with_it():
    (slow,) = told([[1.0, 1.0, 2.0, 2.1]] * IN_A_ROW)
    assert slow.host == "node-3"


@pytest.mark.parametrize(
    "times",
    [
        [[1.0, 1.1, 1.4, 1.0]] * 6,  # not that much slower
        [[0.01, 0.01, 0.05, 0.01]] * 6,  # slower by nothing that counts
        [[1, 1, 2, 1], [1, 2, 1, 1]] * 6,  # now this one, now that one
        [[1, 1, 2, 1], [1, 1, 2, 1], [1, 1, 1, 1]] * 3,  # not in a row
    ],
)
def test_ranks_that_differ_by_chance_are_not_told(times):
    assert told(times) == []
