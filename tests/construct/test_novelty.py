"""ROUGE-L by the library is the textbook's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.construct.novelty import Pool, rouge_l

WORDS = st.lists(st.sampled_from(["sort", "the", "list", "of", "numbers", "写"]), max_size=12).map(" ".join)


def lcs(one, other):
    """The longest common subsequence, by the table of the textbook."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = row[:]
        for j, b in enumerate(other, 1):
            row[j] = before[j - 1] + 1 if a == b else max(before[j], row[j - 1])
    return row[-1]


def textbook(one, other):
    m, n = one.split(), other.split()
    both = lcs(m, n)
    return 2 * (both / len(m)) * (both / len(n)) / (both / len(m) + both / len(n)) if both else 0.0


@given(WORDS, WORDS)
def test_rouge_l_is_the_harmonic_mean_of_precision_and_recall(one, other):
    assert rouge_l(one, other) == pytest.approx(textbook(one, other))


@given(st.lists(WORDS, min_size=1, max_size=8), WORDS.filter(bool))
def test_the_nearest_of_a_pool_is_the_best_of_all(known, text):
    pool = Pool()
    for one in known:
        pool.add(one)
    best = max(textbook(one, text) for one in known)
    score, number = pool.nearest(text)
    assert score == pytest.approx(best) == pytest.approx(textbook(known[number], text))
    found = pool.nearest(text, at_least=0.7)
    assert (found is not None) == (best >= 0.7 - 1e-9)


def test_case_punctuation_and_spaces_do_not_make_an_instruction_new():
    assert rouge_l("Sort the list, please!", "sort  THE list please") == 1
    assert rouge_l("", "") == rouge_l("", "sort") == 0
    assert rouge_l("写一个函数", "写一个程序") == pytest.approx(0.6)  # of five characters three in order
