"""Does a text stand in a benchmark? Found by the n-grams of words that it shares with an item, and by its BLEU.

What is compared is an item's docstring, or its whole text if it has none, with and without examples; on the other side
the whole text, every docstring in it, likewise, and every line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mftcoder.data.filters.bleu import MAX_ORDER, References
from mftcoder.data.filters.docstrings import descriptions, docstrings, without_examples
from mftcoder.data.filters.words import ngrams, words

FIELDS = ("docstring", "prompt", "description", "text", "question", "instruction", "query", "problem")  # first counts
_COMMON = 10  # items of a benchmark: an n-gram in more of them belongs to its form, such as a fixed instruction


class Item(NamedTuple):
    """A task of a benchmark."""

    place: str  # file and line
    text: str
    benchmark: int = 0  # number of the benchmark that it belongs to


class Hit(NamedTuple):
    """What a text shares with a benchmark."""

    reason: str  # "ngram" or "bleu"
    item: int
    score: float  # the share of the item's n-grams that stand in the text, or the BLEU (0 … 1)


def item_text(record: Mapping[str, Any], field: str | None) -> str | None:
    """The last docstring in ``field`` of a benchmark's record, or all of it if it holds none; None if it is no string.

    ``field`` None: the first of FIELDS that the record has.
    """
    text = record.get(field or next((name for name in FIELDS if isinstance(record.get(name), str)), ""))
    return (docstrings(text) or [text])[-1] if isinstance(text, str) else None


class Benchmarks:
    """The items of some benchmarks, indexed."""

    def __init__(self, items: Sequence[Item], *, bleu: float | None, ngram_words: int | None) -> None:
        """``bleu``: the score above which a text is an item's; ``ngram_words``: n. None switches either test off."""
        self.items = items
        self._bleu = bleu
        self._ngram_words = ngram_words
        num_words = np.diff(words([item.text for item in items], punctuation=False).starts)
        self.too_short = np.flatnonzero(num_words < MAX_ORDER)  # no test can tell these
        forms = [(form, number) for number, item in enumerate(items) for form in _forms(item.text)]
        self._item_of_form = [number for _, number in forms]
        self._references = References([form for form, _ in forms] if bleu is not None else [])
        if ngram_words:
            self._index_ngrams(ngram_words)

    def _index_ngrams(self, n: int) -> None:
        grams = ngrams(words([item.text for item in self.items], punctuation=False), n)
        item_of = np.repeat(np.arange(len(self.items)), np.diff(grams.starts))
        gram, item = np.unique(np.stack([grams.values, item_of.astype(np.uint64)]), axis=1)
        benchmark = np.array([item.benchmark for item in self.items], np.uint64)[item.astype(np.int64)]
        _, group, counts = np.unique(np.stack([gram, benchmark]), axis=1, return_inverse=True, return_counts=True)
        telling = (counts[group] <= _COMMON) & ~np.isin(item, self.too_short)
        self._grams, self._item_of_gram = gram[telling], item[telling].astype(np.int64)
        self._num_grams = np.bincount(self._item_of_gram, minlength=len(self.items))

    def find(self, texts: Sequence[str]) -> list[Hit | None]:
        """For each text the item that it shares most n-grams with, or else has the highest BLEU against; None: none."""
        hits: list[Hit | None] = [None] * len(texts)
        if self._ngram_words:
            hits = self._shared_ngrams(texts)
        if self._bleu is not None:
            hits = [hit or self._best_bleu(text) for hit, text in zip(hits, texts, strict=True)]
        return hits

    def _shared_ngrams(self, texts: Sequence[str]) -> list[Hit | None]:
        assert self._ngram_words
        grams = ngrams(words(texts, punctuation=False), self._ngram_words)
        found = np.isin(grams.values, self._grams)
        hits: list[Hit | None] = [None] * len(texts)
        for number in np.flatnonzero(np.diff(np.concatenate([[0], np.cumsum(found)])[grams.starts])).tolist():
            own = grams.values[grams.starts[number] : grams.starts[number + 1]]
            shared = np.bincount(self._item_of_gram[np.isin(self._grams, own)], minlength=len(self.items))
            shares = shared / np.maximum(1, self._num_grams)
            hits[number] = Hit("ngram", int(shares.argmax()), float(shares.max()))
        return hits

    def _best_bleu(self, text: str) -> Hit | None:
        assert self._bleu is not None
        found = [best for form in descriptions(text) if (best := self._references.best_above(form, self._bleu))]
        if not found:
            return None
        best = max(found, key=lambda one: one.score)
        return Hit("bleu", self._item_of_form[best.reference], best.score)


def _forms(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, [text, without_examples(text)])))
