"""Hashes of words and n-grams, against the words that a regular expression finds."""

import re
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.data.filters.words import UNSPACED_PATTERN, ngrams, words

texts_strategy = st.lists(st.text(st.sampled_from(list("abAB1_ .,+-\n\té的是字")), max_size=40), max_size=8)


def split(text: str) -> list[str]:
    spaced = re.sub(f"({UNSPACED_PATTERN})", r" \1 ", unicodedata.normalize("NFC", text).lower())
    return re.findall(r"\w+", spaced)


def lists(ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(ragged.values, ragged.starts[1:-1])] if len(ragged.starts) > 1 else []


def same_pattern(hashes: list[list[int]], expected: list[list]) -> bool:
    """Equal hashes stand exactly where equal words do."""
    flat, flat_expected = ([x for part in parts for x in part] for parts in (hashes, expected))
    pairs = set(zip(flat, flat_expected, strict=True))
    return len(pairs) == len(set(flat)) == len(set(flat_expected))


@given(texts_strategy)
def test_equal_words_and_only_they_have_equal_hashes(texts: list[str]) -> None:
    expected = [split(text) for text in texts]
    found = lists(words(texts, punctuation=False))
    assert [len(part) for part in found] == [len(part) for part in expected]
    assert same_pattern(found, expected)


@given(texts_strategy, st.integers(1, 6))
def test_ngrams_are_runs_of_words_and_a_short_text_is_one(texts: list[str], n: int) -> None:
    expected = [
        [tuple(own[start : start + n]) for start in range(max(len(own) - n + 1, min(1, len(own))))]
        for own in map(split, texts)
    ]
    found = lists(ngrams(words(texts, punctuation=False), n))
    assert [len(part) for part in found] == [len(part) for part in expected]
    assert same_pattern(found, expected)


def test_marks_of_punctuation_are_words_of_their_own_when_they_count() -> None:
    one, other, spaced = lists(words(["x = a+b", "x = a-b", "x=a + b"], punctuation=True))
    assert len(one) == 5
    assert one == spaced
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, True, False, True]
    one, other = lists(words(["a+b", "a-b"], punctuation=False))
    assert one == other


def test_the_order_of_words_and_of_letters_counts() -> None:
    for one, other in (("ab", "ba"), ("aa", "a"), ("a b", "b a"), ("é", "e")):
        first, second = lists(ngrams(words([one, other], punctuation=False), 2))
        assert first != second


def test_composed_and_decomposed_letters_are_the_same() -> None:
    one, other = lists(words(["café", unicodedata.normalize("NFD", "café")], punctuation=False))
    assert one == other


def test_hashes_do_not_depend_on_what_is_hashed_beside_and_never_change() -> None:
    alone = ngrams(words(["to be or not to be"], punctuation=True), 5)
    beside = ngrams(words(["x", "to be or not to be", ""], punctuation=True), 5)
    assert beside.values[beside.starts[1] : beside.starts[2]].tolist() == alone.values.tolist()
    assert alone.values.tolist() == [15364031189253055139, 775678504951052964]
