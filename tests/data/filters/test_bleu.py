"""BLEU against many references, against sacrebleu's of every pair."""

import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from mftcoder.data.filters.bleu import References

VOCABULARY = ["write", "a", "function", "to", "find", "sum", "of", "list", "3.5,", "(x)", "-\n", "&lt;", "A"]
text_strategy = st.lists(st.sampled_from(VOCABULARY), max_size=14).map(" ".join)
logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # it advises against BLEU without smoothing at every call
ORACLE = BLEU(smooth_method="none", lowercase=True, effective_order=False)


def brute_force(text: str, references: list[str]) -> list[float]:
    return [ORACLE.sentence_score(text, [reference]).score / 100 for reference in references]


@given(
    st.lists(text_strategy, min_size=1, max_size=12),
    st.integers(0, 2),
    st.integers(0, 3),
    text_strategy | st.sampled_from(["", " -\n"]),
    st.sampled_from([0.2, 0.5, 0.8]),
)
@example(["write a function to find sum of"], 0, 2, "", 0.5)  # BLEU 0.67, all of it the brevity penalty
@example(["write write write write"], 0, 0, " -\n", 0.2)  # sacrebleu strips a text before it joins hyphenated words
@settings(max_examples=300)
def test_the_best_reference_is_the_one_that_scoring_every_pair_finds(
    references: list[str], before: int, behind: int, more: str, threshold: float
) -> None:
    own = references[0].split(" ")
    text = " ".join(own[before : len(own) - behind]) + more  # mostly like one of them
    scores = brute_force(text, references)
    best = References(references).best_above(text, threshold)
    if max(scores) > threshold:
        assert best is not None
        assert best.score == max(scores)
        assert best.reference == scores.index(max(scores))
    else:
        assert best is None


def test_a_changed_word_costs_as_much_as_sacrebleu_says() -> None:
    reference = "Write a function to find the sum of all even numbers in a list."
    text = "Write a function to find the sum of all odd numbers in a list."
    assert References([reference]).best_above(text, 0.5).score == pytest.approx(brute_force(text, [reference])[0])


@pytest.mark.parametrize("text", ["", "a b c", "word " * 10_000])
def test_texts_far_shorter_or_longer_than_all_references_are_like_none(text: str) -> None:
    assert References(["a b c d e f"]).best_above(text, 0.5) is None
    assert References([]).best_above(text, 0.5) is None


def test_characters_of_scripts_without_spaces_are_words() -> None:
    reference = "写一个函数来求两个数的最大公约数"
    assert References([reference]).best_above("写一个函数来求两个整数的最大公约数", 0.5) is not None
    assert References([reference]).best_above("写一个程序打印今天的日期和时间信息", 0.5) is None
