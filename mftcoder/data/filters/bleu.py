"""The BLEU of a text against each of many references, as sacrebleu defines it, without scoring every pair.

BLEU-4 without smoothing is 0 unless a 4-gram is shared, and lengths and shared n-grams bound it from above. Whatever
these bounds cannot rule out is counted through an inverted index of the references, and scored by sacrebleu.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from mftcoder.data.filters.words import UNSPACED_PATTERN

MAX_ORDER = 4
_UNSPACED = re.compile(f"({UNSPACED_PATTERN})")
_ROUNDING = 1e-9  # of the bounds: too small to matter, large enough never to rule out what just reaches

_tokenize = Tokenizer13a()


class Best(NamedTuple):
    """The reference that a text is most like."""

    reference: int
    score: float  # BLEU of 0 … 1


class References:
    """R reference texts, indexed by their n-grams."""

    def __init__(self, texts: Sequence[str]) -> None:
        token_lists = [tokens(text) for text in texts]
        self.lengths = np.array([len(each) for each in token_lists], np.int64)  # [R]
        self._longest = int(self.lengths.max(initial=0))
        self._postings = [_postings(token_lists, order) for order in range(1, MAX_ORDER + 1)]

    def best_above(self, text: str, threshold: float) -> Best | None:
        """The first of the references against which ``text`` has the highest BLEU, if that is above ``threshold``."""
        if len(text.rstrip().replace("-\n", "").split()) * threshold > self._longest:
            return None  # tokens are no fewer than these words, and BLEU at most reference / text in tokens
        own = tokens(text)
        totals = [len(own) - order for order in range(MAX_ORDER)]
        if totals[-1] <= 0 or not len(self.lengths):
            return None
        matches = np.minimum(np.array(totals)[:, None], self.lengths - np.arange(MAX_ORDER)[:, None])  # at the most
        alive = np.flatnonzero(_bleu_bounds(matches, totals, self.lengths) > threshold - _ROUNDING)
        for order in range(MAX_ORDER, 0, -1):
            if not len(alive):
                return None
            matches[order - 1] = self._shared(own, order)
            alive = alive[_bleu_bounds(matches[:, alive], totals, self.lengths[alive]) > threshold - _ROUNDING]
        scores = [_sacrebleu(matches[:, one].tolist(), totals, len(own), int(self.lengths[one])) for one in alive]
        score, negated = max(zip(scores, (-alive).tolist(), strict=True), default=(0.0, 0))
        return Best(-negated, score) if score > threshold else None

    def _shared(self, own: list[str], order: int) -> NDArray[np.int64]:
        """How many of a text's n-grams each reference has too, [R]; none more often than the reference has it."""
        shared = np.zeros(len(self.lengths), np.int64)
        postings = self._postings[order - 1]
        for gram, count in _counted(own, order).items():
            if gram in postings:
                references, counts = postings[gram]
                shared[references] += np.minimum(counts, count)
        return shared


def tokens(text: str) -> list[str]:
    """The tokens of ``text`` in lower case: sacrebleu's 13a, and each character of scripts without spaces."""
    found = _tokenize(_UNSPACED.sub(r" \1 ", text.lower().rstrip())).split()
    for cached in (Tokenizer13a, TokenizerRegexp):  # they would keep the last 65,536 texts
        cached.__call__.cache_clear()
    return found


def _counted(own: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(own[start:] for start in range(order)), strict=False))


def _postings(token_lists: list[list[str]], order: int) -> dict[tuple[str, ...], tuple[NDArray, NDArray]]:
    """For each n-gram the references that have it, and how often."""
    found: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for reference, own in enumerate(token_lists):
        for gram, count in _counted(own, order).items():
            found[gram].append((reference, count))
    return {gram: tuple(np.array(pairs).T) for gram, pairs in found.items()}


def _bleu_bounds(matches: NDArray[np.int64], totals: list[int], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """BLEU [R] of a text with ``totals`` n-grams, of which the references share at most ``matches`` [MAX_ORDER, R]."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(matches, 0) / np.array(totals)[:, None]).mean(axis=0)
    return np.exp(logs + np.minimum(0, 1 - lengths / totals[0]))


def _sacrebleu(matches: list[int], totals: list[int], length: int, reference_length: int) -> float:
    return BLEU.compute_bleu(matches, totals, length, reference_length, smooth_method="none").score / 100
