"""Texts -> hashes of their words and of runs of n words, many texts at a time.

A word is a run of letters, digits, marks and underscores, in lower case. Characters of scripts that put no spaces
between words (Chinese, Japanese, Thai …) are words of their own. Punctuation is left out, or each mark is a word.
The hashes are the same on every machine. A collision among 10^9 different words or n-grams has a probability of 3 %.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_SPACE, _WORD, _ALONE, _MARK = range(4)
_NUM_CODE_POINTS = 0x110000
_UNSPACED = (  # first and last code point of the scripts without spaces
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
UNSPACED_PATTERN = "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED) + "]"
_CHARACTER_BASE = np.uint64(0x9E3779B97F4A7C15)
_WORD_BASE = np.uint64(0xC2B2AE3D27D4EB4F)


class Ragged(NamedTuple):
    """The hashes of T texts: those of text t are ``values[starts[t] : starts[t + 1]]``."""

    values: Hashes  # [all]
    starts: NDArray[np.int64]  # [T + 1]


def words(texts: Sequence[str], *, punctuation: bool) -> Ragged:
    """The words of T texts, in order; marks of punctuation are words too if ``punctuation``."""
    folded = [unicodedata.normalize("NFC", text).lower() for text in texts]
    joined = "".join(f"{text}\n" for text in folded).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(joined, np.uint32)
    kinds = _kinds()[codes]
    in_words = np.flatnonzero(kinds != _SPACE if punctuation else (kinds != _SPACE) & (kinds != _MARK))
    text_starts = np.cumsum([0, *(len(text) + 1 for text in folded)])
    if not len(in_words):
        return Ragged(np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.int64))
    kinds = kinds[in_words]
    goes_on = (kinds[1:] == _WORD) & (kinds[:-1] == _WORD) & (np.diff(in_words) == 1)
    firsts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    lengths = np.diff(np.append(firsts, len(in_words)))
    places = np.arange(len(in_words)) - np.repeat(firsts, lengths)
    powers = _powers(_CHARACTER_BASE, int(lengths.max()))
    values = np.add.reduceat((codes[in_words].astype(np.uint64) + 1) * powers[places], firsts)
    return Ragged(mixed(values), np.searchsorted(in_words[firsts], text_starts))


def ngrams(words: Ragged, n: int) -> Ragged:
    """The runs of ``n`` words of T texts, in order; a shorter text that has words counts as one run of all of them."""
    num_words = np.diff(words.starts)
    counts = np.maximum(num_words - n + 1, num_words > 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(starts[-1]) + np.repeat(words.starts[:-1] - starts[:-1], counts)
    ends = np.repeat(words.starts[1:], counts)
    total = np.zeros(len(places), np.uint64)
    for offset, power in enumerate(_powers(_WORD_BASE, n)):
        at = places + offset
        inside = at < ends
        total += np.where(inside, words.values[np.where(inside, at, 0)] * power, np.uint64(0))
    return Ragged(mixed(total), starts)


def mixed(values: Hashes) -> Hashes:
    """A bijection that spreads every bit over all 64 (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _powers(base: np.uint64, count: int) -> Hashes:
    """base^1 … base^count modulo 2^64."""
    return np.cumprod(np.full(count, base), dtype=np.uint64)


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of every code point."""
    of_category = {"L": _WORD, "N": _WORD, "M": _WORD, "P": _MARK, "S": _MARK}
    kinds = np.fromiter(
        (of_category.get(unicodedata.category(chr(code))[0], _SPACE) for code in range(_NUM_CODE_POINTS)),
        np.uint8,
        _NUM_CODE_POINTS,
    )
    kinds[ord("_")] = _WORD
    for first, last in _UNSPACED:
        script = kinds[first : last + 1]
        script[script == _WORD] = _ALONE
    return kinds
