"""Which samples are held out for validation: a pure function of stable hashes.

Samples of one group (source file, conversation …) are never divided. Groups are taken by their hash, lowest first, so a
group stays on its side when records are reordered. A group that records name is on the same side in every task, as what
one task trains on must not be another's held-out answer. The others nearly always stay when some are added.
"""

from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.permutation import mix64, splitmix64


class Split(IntEnum):
    """The parts of a task."""

    TRAIN = 0
    PROBE = 1  # what validation-based weightings watch
    VALIDATION = 2  # what is reported


SPLITS = {split: split.name.lower() for split in Split}


class Holdout(NamedTuple):
    """Where each of N samples goes."""

    members: dict[Split, NDArray[np.int64]]  # ascending indices of the samples of each split
    shared_probe: bool  # too little was held out for two parts: probe and validation are the same samples


def group_hash(group: str) -> int:
    """64 bits that stand for ``group``."""
    return int.from_bytes(blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def seeded(groups: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The hashes ``groups`` turned into others, one to one: their order decides what is held out with ``seed``."""
    return mix64(groups ^ splitmix64(seed, 1))


def hold_out(groups: NDArray[np.uint64], named: NDArray[np.bool_], fraction: float) -> Holdout:
    """Divide N samples by the hashes of their ``groups`` [N]; ``named`` [N] tells which groups the records named.

    A named group is held out if its hash is among the lowest ``fraction`` of all possible ones. That does not depend on
    what else the task holds, so all tasks, and all configs of one seed and fraction, hold out the same groups. Of the
    others the lowest hashes are, until they make max(1, round(fraction · n)) of their n samples. At least one group is
    held out, and never all; with fraction 0 or fewer than two groups none is. The first half of what is held out is the
    probe, the rest validation; a single held-out group is both.
    """
    hashes, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    split_of_group = np.full(len(hashes), Split.TRAIN)
    if fraction == 0 or len(hashes) < 2:
        return _holdout(split_of_group[group_of], shared_probe=False)
    is_named = named[first]
    counted = np.where(is_named, 0, sizes)
    wanted = max(1, round(fraction * counted.sum()))
    is_held = np.where(is_named, hashes < int(fraction * 2**64), np.cumsum(counted) - counted < wanted)
    held = np.flatnonzero(is_held)[: len(hashes) - 1] if is_held.any() else np.array([0])
    samples_up_to = np.cumsum(sizes[held])
    num_probe = min(int(np.searchsorted(samples_up_to, samples_up_to[-1] / 2)) + 1, len(held) - 1)
    split_of_group[held] = Split.VALIDATION
    split_of_group[held[:num_probe]] = Split.PROBE
    return _holdout(split_of_group[group_of], shared_probe=len(held) == 1)


def _holdout(split_of: NDArray[np.int64], *, shared_probe: bool) -> Holdout:
    members = {split: np.flatnonzero(split_of == split) for split in Split}
    if shared_probe:
        members[Split.PROBE] = members[Split.VALIDATION]
    return Holdout(members, shared_probe)
