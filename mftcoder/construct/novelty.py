"""Is an instruction new? By ROUGE-L (Lin, 2004) with every earlier one, as Self-Instruct filters."""

from array import array

from mftcoder.data.filters.words import words

_FIRST_CODE = 0x10000  # above the surrogates and all that could be mistaken for one
_CODES = 0x110000 - _FIRST_CODE


class Pool:
    """Instructions that are known, each a string in which a character stands for a word.

    So spelt, the longest common subsequence of words is that of characters, which a library finds bit-parallel.
    """

    def __init__(self) -> None:
        self._known: list[str] = []
        self._code_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def nearest(self, text: str, at_least: float = 0.0) -> tuple[float, int] | None:
        """The highest ROUGE-L (F1) of ``text`` with a known one, and the number of that; None if below ``at_least``."""
        from rapidfuzz import process
        from rapidfuzz.distance import Indel

        found = process.extractOne(
            self._spelt(text), self._known, scorer=Indel.normalized_similarity, score_cutoff=at_least
        )
        return None if found is None else (found[1], found[2])

    def add(self, text: str) -> None:
        self._known.append(self._spelt(text))

    def _spelt(self, text: str) -> str:
        hashes = words([text], punctuation=False).values.tolist()
        codes = [self._code_of.setdefault(word, len(self._code_of) % _CODES) for word in hashes]
        return array("I", [_FIRST_CODE + code for code in codes]).tobytes().decode("utf-32-le")


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words: 2·LCS / (m + n); 0 where neither has a word."""
    pool = Pool()
    pool.add(one)
    found = pool.nearest(other)
    return found[0] if found and (one.strip() or other.strip()) else 0.0
