"""Which samples repeat others, against all pairs compared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mftcoder.data.filters.duplicates import Match, Sketches, find_duplicates, find_leaks
from mftcoder.data.filters.minhash import jaccard, shingles, sign

SENTENCE = "the quick brown fox jumps over the lazy dog and then it runs far away into the dark green wood".split()  # noqa: SIM905
texts_strategy = st.lists(
    st.builds(
        lambda start, stop, extra: " ".join(SENTENCE[start:stop] + ["tail"] * extra),
        st.integers(0, 3),
        st.integers(14, 20),
        st.integers(0, 2),
    ),
    max_size=30,
)


def sketches(texts: list[str], similarity: float = 0.6) -> Sketches:
    sets = shingles(texts)
    exact = np.array([hash(text) & (2**63 - 1) for text in texts], np.uint64)
    return Sketches(exact, *sign(sets, similarity), sets.__getitem__)


def duplicates(texts: list[str], made_for: float = 0.6, *, threshold: float | None) -> list[Match]:
    return find_duplicates(sketches(texts, made_for), np.arange(len(texts)), threshold)


def brute_force(texts: list[str], references: list[int], similarity: float, grow: bool) -> list[Match]:
    """``grow``: every text is compared with those before it that stay; else with ``references``."""
    sets = shingles(texts)
    found, kept = [], list(references)
    for index in range(len(texts)):
        if index in references:
            continue
        equal = [other for other in (range(index) if grow else references) if texts[other] == texts[index]]
        scores = [(jaccard(sets[index], sets[other]), -other) for other in kept]
        if equal:
            found.append(Match(index, equal[0], 1.0, True))
        elif scores and max(scores)[0] >= similarity:
            found.append(Match(index, -max(scores)[1], max(scores)[0], False))
        elif grow:
            kept.append(index)
    return found


@given(texts_strategy)
@settings(max_examples=50)
def test_duplicates_are_those_that_comparing_all_pairs_finds(texts: list[str]) -> None:
    # Sets of this kind and size share a band with a probability of all but 1 from 0.6 on.
    assert duplicates(texts, 0.4, threshold=0.6) == brute_force(texts, [], 0.6, grow=True)


@given(texts_strategy, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_leaks_are_those_that_comparing_all_pairs_finds(texts: list[str], random) -> None:
    held = sorted(random.sample(range(len(texts)), len(texts) // 3))
    trained = [index for index in range(len(texts)) if index not in held]
    found = find_leaks(sketches(texts, 0.4), np.array(held, np.int64), np.array(trained, np.int64), 0.6)
    assert found == brute_force(texts, held, 0.6, grow=False)


def test_the_first_stays_and_without_similarity_only_exact_duplicates_go() -> None:
    texts = ["a b c d e f g h i j", "other text", "a b c d e f g h i k", "a b c d e f g h i j", "other text"]
    assert duplicates(texts, threshold=None) == [Match(3, 0, 1.0, True), Match(4, 1, 1.0, True)]
    assert duplicates(texts, threshold=0.6) == [
        Match(2, 0, 5 / 7, False),
        Match(3, 0, 1.0, True),
        Match(4, 1, 1.0, True),
    ]


def test_what_is_like_a_removed_sample_only_stays() -> None:
    words = [f"w{number}" for number in range(60)]
    chain = [
        " ".join(words[start : start + 40]) for start in (0, 4, 8)
    ]  # each like the next, the first unlike the last
    similar = [jaccard(*shingles([chain[a], chain[b]])) for a, b in ((0, 1), (1, 2), (0, 2))]
    assert min(similar[:2]) >= 0.75 > similar[2]
    assert [match.sample for match in duplicates(chain, 0.5, threshold=0.75)] == [1]


def test_a_great_many_records_of_one_form_are_told_apart() -> None:
    generator = np.random.default_rng(0)
    form = "please write for me a short and friendly letter to the person who is named below in simple words"
    texts = [f"{form}: {' '.join(map(str, generator.integers(0, 10**6, 16)))}" for _ in range(800)]
    assert jaccard(*shingles(texts[:2])) > 0.25
    planted = [f"{text} 7" for text in texts[::40]]
    found = duplicates(texts + planted, 0.8, threshold=0.8)
    assert [(match.sample, match.original) for match in found] == [(800 + n, 40 * n) for n in range(20)]


@pytest.mark.parametrize("texts", [[], ["a"], ["", ""], ["", "…", " "]])
def test_there_may_be_little_to_compare(texts: list[str]) -> None:
    matches = duplicates(texts, threshold=0.6)
    assert all(match.exact for match in matches)
    assert len(matches) == len(texts) - len(set(texts))
