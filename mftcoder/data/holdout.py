"""Which samples are held out for validation: a pure function of stable hashes.

Samples of one group (source file, conversation …) are never divided. Groups are taken by their hash, lowest first, so a
group stays on its side when records are reordered. A group that records name is on the same side in every task, as what
one task trains on must not be another's held-out answer. The others nearly always stay when some are added.
Where tasks hold out different amounts, or files of their own, that can fail, and is counted.
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


def hold_out(groups: NDArray[np.uint64], named: NDArray[np.bool_], amount: float | int) -> Holdout:
    """Divide N samples by the hashes of their ``groups`` [N]; ``named`` [N] tells which groups the records named.

    With a share as ``amount`` (< 1) a named group is held out if its hash is among the lowest ``amount`` of all
    possible ones. That does not depend on what else the task holds, so all tasks, and all configs of one seed and
    share, hold out the same groups. Of the others the lowest hashes are, until they make max(1, round(amount · n)) of
    their n samples. With a number (≥ 1) the lowest hashes are, until they make that many samples or half of all.

    At least one group is held out, and never all; with amount 0 or fewer than two groups none is.
    """
    hashes, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if amount == 0 or len(hashes) < 2:
        return divide(groups, np.zeros(len(groups), np.bool_))
    by_share = named[first] & (amount < 1)
    counted = np.where(by_share, 0, sizes)
    wanted = max(1, round(amount * counted.sum()) if amount < 1 else min(int(amount), len(groups) // 2))
    is_held = np.where(by_share, hashes < int(min(amount, 1) * 2**64), np.cumsum(counted) - counted < wanted)
    is_held[np.flatnonzero(is_held)[len(hashes) - 1 :]] = False
    if not is_held.any():
        is_held[0] = True
    return divide(groups, is_held[group_of])


def divide(groups: NDArray[np.uint64], held: NDArray[np.bool_]) -> Holdout:
    """The samples that are ``held`` [N] out in two parts: the first half, by their groups' hashes, is the probe.

    A single held-out group is both probe and validation.
    """
    members = {Split.TRAIN: np.flatnonzero(~held)}
    indices = np.flatnonzero(held)
    hashes, group_of, sizes = np.unique(groups[indices], return_inverse=True, return_counts=True)
    num_probe = min(int(np.searchsorted(np.cumsum(sizes), len(indices) / 2)) + 1, len(hashes) - 1)
    shared = len(hashes) == 1
    members[Split.PROBE] = indices if shared else indices[group_of < num_probe]
    members[Split.VALIDATION] = indices[group_of >= num_probe]
    return Holdout(members, shared)
