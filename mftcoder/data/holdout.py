"""Which samples are held out for validation: a pure function of stable hashes.

Samples of one group (source file, conversation …) are never divided. Groups are taken by their hash, lowest first, so a
group stays on its side when records are reordered, and nearly always when some are added.
"""

from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


def group_hash(group: str, seed: int) -> int:
    """64 bits that stand for ``group`` and decide how early it is held out."""
    return int.from_bytes(blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8)).digest())


def hold_out(groups: NDArray[np.uint64], fraction: float) -> Holdout:
    """Divide N samples by the hashes of their ``groups`` [N].

    Whole groups are held out until they make max(1, round(fraction · N)) samples; never all groups. The first half of
    what is held out is the probe, the rest validation; a single held-out group is both. With fraction 0 or fewer than
    two groups nothing is held out.
    """
    hashes, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    split_of_group = np.full(len(hashes), Split.TRAIN)
    if fraction == 0 or len(hashes) < 2:
        return _holdout(split_of_group[group_of], shared_probe=False)
    samples_up_to = np.cumsum(sizes)
    wanted = max(1, round(fraction * len(groups)))
    held_groups = min(int(np.searchsorted(samples_up_to, wanted)) + 1, len(hashes) - 1)
    half = samples_up_to[held_groups - 1] / 2
    probe_groups = min(int(np.searchsorted(samples_up_to, half)) + 1, held_groups - 1)
    split_of_group[:held_groups] = Split.VALIDATION
    split_of_group[:probe_groups] = Split.PROBE
    return _holdout(split_of_group[group_of], shared_probe=held_groups == 1)


def _holdout(split_of: NDArray[np.int64], *, shared_probe: bool) -> Holdout:
    members = {split: np.flatnonzero(split_of == split) for split in Split}
    if shared_probe:
        members[Split.PROBE] = members[Split.VALIDATION]
    return Holdout(members, shared_probe)
