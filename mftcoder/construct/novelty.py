"""Is an instruction new? By ROUGE-L (Lin, 2004) with every earlier one, as Self-Instruct filters.

Not every pair is compared. Of m words, ROUGE-L of at least t needs k = ⌈t·m / (2 - t)⌉ in common, as F1 = 2c / (m + n)
and n ≥ c. So at least one of any m - k + 1 of the words is shared, and only instructions that hold one of the rarest so
many are looked at.
"""

import math
from array import array
from collections import defaultdict

import numpy as np

from mftcoder.data.filters.words import words

_FIRST_CODE = 0x10000  # above the surrogates and all that could be mistaken for one
_CODES = 0x110000 - _FIRST_CODE
_ROUNDING = 1e-9  # of a limit times a number of words


class Pool:
    """Instructions that are known, each a string in which a character stands for a word.

    So spelt, the longest common subsequence of words is that of characters, which a library finds bit-parallel.
    """

    def __init__(self) -> None:
        self._known: list[str] = []
        self._code_of: dict[int, str] = {}
        self._holding: defaultdict[str, array] = defaultdict(lambda: array("I"))  # character -> numbers of the known

    def __len__(self) -> int:
        return len(self._known)

    def nearest(self, text: str, at_least: float = 0.0) -> tuple[float, int] | None:
        """The highest ROUGE-L (F1) of ``text`` with a known one, and the number of that; None if below ``at_least``."""
        from rapidfuzz import process
        from rapidfuzz.distance import Indel

        spelt = self._spelt(text)
        numbers = self._promising(spelt, at_least)
        found = process.extractOne(
            spelt,
            [self._known[number] for number in numbers],
            scorer=Indel.normalized_similarity,
            score_cutoff=at_least,
        )
        return None if found is None else (found[1], numbers[found[2]])

    def add(self, text: str) -> None:
        spelt = self._spelt(text)
        for character in set(spelt):
            self._holding[character].append(len(self._known))
        self._known.append(spelt)

    def _promising(self, spelt: str, at_least: float) -> list[int]:
        """Numbers of all that may be as near as that, in order."""
        needed = math.ceil(at_least * len(spelt) / (2 - at_least) - _ROUNDING)
        if needed < 1:
            return list(range(len(self._known)))
        rarest = sorted(spelt, key=lambda character: len(self._holding.get(character, ())))[: len(spelt) - needed + 1]
        lists = [np.frombuffer(self._holding[one], np.uint32) for one in set(rarest) if one in self._holding]
        return np.unique(np.concatenate(lists)).tolist() if lists else []

    def _spelt(self, text: str) -> str:
        hashes = words([text], punctuation=False).values.tolist()
        return "".join(
            self._code_of.setdefault(word, chr(_FIRST_CODE + len(self._code_of) % _CODES)) for word in hashes
        )


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words: 2·LCS / (m + n); 0 where neither has a word."""
    pool = Pool()
    pool.add(one)
    found = pool.nearest(other)
    return found[0] if found and (one.strip() or other.strip()) else 0.0
