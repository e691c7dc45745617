"""Which of N samples repeat an earlier one, exactly or nearly: the first of them in reading order stays."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.filters.minhash import Shingles, jaccard, least_agreement

Indices = NDArray[np.int64]


class Sketches(NamedTuple):
    """What N samples are compared by."""

    exact: NDArray[np.uint64]  # [N] hashes; equal for equal samples
    bands: NDArray[np.uint32]  # [N, B]; samples that share one are candidates. B = 0: only exact duplicates
    low_bytes: NDArray[np.uint8]  # [N, NUM_MINIMA]; share about as many entries as the sets share shingles
    shingles: Callable[[int], Shingles]  # of a sample


class Match(NamedTuple):
    """A sample that repeats another."""

    sample: int
    original: int  # what it repeats
    similarity: float  # Jaccard's; 1.0 also for exact duplicates
    exact: bool


def find_duplicates(sketches: Sketches, among: Indices, similarity: float | None) -> list[Match]:
    """The samples ``among`` which equal an earlier one, or are at least as similar to an earlier one that stays.

    Both ``among`` and the result are in order. ``similarity`` None: only exact duplicates. Of several originals the
    most similar is named, then the first.
    """
    firsts = among[_first_of_equals(sketches.exact[among])]
    matches = _exact_matches(among, firsts)
    if similarity is not None:
        index = _Candidates(sketches, among[firsts == among], similarity)
        for sample in index.samples:
            if found := index.most_similar(sample):
                matches.append(found)
            else:
                index.add(sample)
    return sorted(matches)


def find_leaks(sketches: Sketches, held_out: Indices, trained: Indices, similarity: float | None) -> list[Match]:
    """The samples in ``trained`` that equal one in ``held_out`` or are at least as similar to one; in order."""
    order = np.concatenate([held_out, trained])
    firsts = order[_first_of_equals(sketches.exact[order])][len(held_out) :]
    is_equal = np.isin(firsts, held_out)
    matches = _exact_matches(trained[is_equal], firsts[is_equal])
    if similarity is not None:
        index = _Candidates(sketches, np.concatenate([held_out, trained[~is_equal]]), similarity)
        references = set(held_out.tolist())
        for sample in index.samples:
            if sample in references:
                index.add(sample)
        matches += [
            found for sample in index.samples if sample not in references and (found := index.most_similar(sample))
        ]
    return sorted(matches)


def _first_of_equals(hashes: NDArray[np.uint64]) -> Indices:
    """For every sample the first of those with its hash."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    return first[group]


def _exact_matches(samples: Indices, originals: Indices) -> list[Match]:
    pairs = zip(samples.tolist(), originals.tolist(), strict=True)
    return [Match(sample, original, 1.0, True) for sample, original in pairs if sample != original]


class _Candidates:
    """Finds, among the samples that were added, the most similar of those that share a band with another."""

    def __init__(self, sketches: Sketches, among: Indices, similarity: float) -> None:
        self._sketches = sketches
        self._similarity = similarity
        self._buckets_of = _shared_buckets(sketches.bands, among)
        self._added: defaultdict[int, array] = defaultdict(lambda: array("q"))
        self._seen_by = np.full(len(sketches.bands), -1)
        self.samples: list[int] = [sample for sample in among.tolist() if sample in self._buckets_of]

    def add(self, sample: int) -> None:
        for bucket in self._buckets_of[sample]:
            self._added[bucket].append(sample)

    def most_similar(self, sample: int) -> Match | None:
        """The first of the most similar samples, unless it is less similar than asked."""
        best = Match(sample, -1, 0.0, False)
        own = self._sketches.shingles(sample)
        for other in self._promising(sample):
            similarity = jaccard(own, self._sketches.shingles(other))
            if (similarity, -other) > (best.similarity, -best.original):
                best = best._replace(original=other, similarity=similarity)
        return best if best.similarity >= self._similarity else None

    def _promising(self, sample: int) -> Iterator[int]:
        """The candidates, without those whose signatures agree too little: records of one form can be a great many."""
        low_bytes = self._sketches.low_bytes
        for bucket in self._buckets_of[sample]:
            if bucket in self._added:
                candidates = np.frombuffer(self._added[bucket], np.int64)
                candidates = candidates[self._seen_by[candidates] != sample]
                self._seen_by[candidates] = sample
                agreeing = np.count_nonzero(low_bytes[candidates] == low_bytes[sample], axis=1)
                yield from candidates[agreeing >= least_agreement(self._similarity)].tolist()


def _shared_buckets(bands: NDArray[np.uint32], among: Indices) -> dict[int, list[int]]:
    """For every sample of ``among`` that shares a band with another: the numbers of the buckets that it shares."""
    buckets_of: defaultdict[int, list[int]] = defaultdict(list)
    num_buckets = 0
    for band in range(bands.shape[1]):
        values, bucket_of, sizes = np.unique(bands[among, band], return_inverse=True, return_counts=True)
        shared = np.flatnonzero(sizes[bucket_of] > 1)
        for sample, bucket in zip(among[shared].tolist(), bucket_of[shared].tolist(), strict=True):
            buckets_of[sample].append(num_buckets + bucket)
        num_buckets += len(values)
    return dict(buckets_of)
