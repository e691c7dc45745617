"""How similar texts are: sets of shingles, their Jaccard similarity, and MinHash bands that find the similar pairs.

Sets of Jaccard similarity s share a given minimum with probability s (Broder, 1997), all r minima of a band with s^r,
and at least one of b bands with 1 - (1 - s^r)^b. Texts that share a band are candidates; their true similarity decides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.filters.words import mixed, ngrams, words

SHINGLE_WORDS = 5
NUM_MINIMA = 128
LEAST_RECALL = 0.99  # of pairs that are exactly as similar as asked; more similar ones are missed more rarely
_SHINGLES_AT_ONCE = 4096

Shingles = NDArray[np.uint32]  # ascending, each once

_FACTORS, _TERMS = mixed(np.arange(1, 2 * NUM_MINIMA + 1, dtype=np.uint64)).reshape(2, NUM_MINIMA)
_FACTORS |= np.uint64(1)


def shingles(texts: Sequence[str]) -> list[Shingles]:
    """The set of runs of five words (marks of punctuation count) of each text.

    Hashes of 32 bits: among the shingles of two texts of m words, m² / 2^32 are taken for shared and are not, which
    changes the similarity by less than 0.001 up to a million words.
    """
    runs = ngrams(words(texts, punctuation=True), SHINGLE_WORDS)
    hashes = (runs.values >> np.uint64(32)).astype(np.uint32)
    return [np.unique(hashes[start:end]) for start, end in zip(runs.starts[:-1], runs.starts[1:], strict=True)]


def jaccard(one: Shingles, other: Shingles) -> float:
    """|A ∩ B| / |A ∪ B|; 0 if both are empty, as nothing is known of them."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


def rows_per_band(similarity: float) -> int:
    """The most minima per band with which a pair of this similarity is a candidate with LEAST_RECALL."""
    for rows in range(NUM_MINIMA, 1, -1):
        if 1 - (1 - similarity**rows) ** (NUM_MINIMA // rows) >= LEAST_RECALL:
            return rows
    return 1


def minima(shingles: Shingles) -> NDArray[np.uint32]:
    """The least value [NUM_MINIMA] of a set under each of the hash functions; the largest number for the empty set."""
    least = np.full(NUM_MINIMA, np.uint32(2**32 - 1))
    for start in range(0, len(shingles), _SHINGLES_AT_ONCE):
        some = shingles[start : start + _SHINGLES_AT_ONCE].astype(np.uint64)
        hashed = (some[:, None] * _FACTORS + _TERMS) >> np.uint64(32)
        np.minimum(least, hashed.min(axis=0), out=least, casting="unsafe")
    return least


class Signatures(NamedTuple):
    """What candidates are found by, of N sets."""

    bands: NDArray[np.uint32]  # [N, B]
    low_bytes: NDArray[np.uint8]  # [N, NUM_MINIMA] of the minima


def sign(sets: Sequence[Shingles], similarity: float) -> Signatures:
    """The signatures of N sets, made to find the pairs of at least ``similarity``."""
    rows = rows_per_band(similarity)
    num_bands = NUM_MINIMA // rows
    least = np.array([minima(one) for one in sets], np.uint32).reshape(-1, NUM_MINIMA)
    banded = least[:, : num_bands * rows].reshape(-1, num_bands, rows)
    total = np.zeros(banded.shape[:2], np.uint64)
    for row in range(rows):
        total = mixed(total + banded[:, :, row].astype(np.uint64))
    return Signatures((total >> np.uint64(32)).astype(np.uint32), least.astype(np.uint8))


def least_agreement(similarity: float) -> float:
    """How many low bytes a pair of this similarity shares all but surely: 4 standard deviations below the mean."""
    share = similarity + (1 - similarity) / 256
    return NUM_MINIMA * share - 4 * (NUM_MINIMA * share * (1 - share)) ** 0.5
