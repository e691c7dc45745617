"""Similarity of texts, against brute force, and MinHash against theory and against datasketch."""

import datasketch
import numpy as np
import pytest

from mftcoder.data.filters.minhash import (
    NUM_MINIMA,
    jaccard,
    least_agreement,
    minima,
    rows_per_band,
    shingles,
    sign,
)

SIMILARITIES = (0.5, 0.7, 0.8, 0.9)


def pair(generator: np.random.Generator, similarity: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of ``size`` that are as similar as that, to the nearest that is possible."""
    shared = round(2 * size * similarity / (1 + similarity))
    values = np.unique(generator.integers(0, 2**32, 3 * size, np.uint32))
    generator.shuffle(values)
    return np.sort(values[:size]), np.sort(values[size - shared : 2 * size - shared])


def test_shingles_are_the_runs_of_five_words_and_marks() -> None:
    text, other = "a, b (c) d e", "a, b (c) d f"
    one, two = shingles([text, other])
    runs, other_runs = ({tuple(x[i : i + 5]) for i in range(4)} for x in (list("a,b(c)de"), list("a,b(c)df")))
    assert len(one) == len(runs)
    assert jaccard(one, two) == len(runs & other_runs) / len(runs | other_runs) == 3 / 5
    assert all(np.all(np.diff(each) > 0) for each in (one, two))


def test_texts_without_words_are_similar_to_nothing() -> None:
    empty, other, text = shingles(["", " \n", "a b c"])
    assert jaccard(empty, other) == jaccard(empty, text) == 0


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_minima_agree_as_often_as_the_sets_are_similar(similarity: float) -> None:
    generator = np.random.default_rng(0)
    pairs = [pair(generator, similarity, 200) for _ in range(100)]
    truth = np.mean([jaccard(*each) for each in pairs])
    ours = np.mean([np.mean(minima(one) == minima(other)) for one, other in pairs])
    # 12,800 draws, so ± 0.0044 at most; 4 standard errors.
    assert ours == pytest.approx(truth, abs=0.018)

    def reference(values: np.ndarray) -> datasketch.MinHash:
        made = datasketch.MinHash(NUM_MINIMA, seed=1)
        made.update_batch([value.tobytes() for value in values])
        return made

    theirs = np.mean([reference(one).jaccard(reference(other)) for one, other in pairs[:30]])
    assert ours == pytest.approx(theirs, abs=0.05)  # 3,840 draws


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("asked", [0.7, 0.8, 0.9])
def test_pairs_share_a_band_as_often_as_theory_says(asked: float, similarity: float) -> None:
    generator = np.random.default_rng(1)
    pairs = [pair(generator, similarity, 150) for _ in range(400)]
    truth = jaccard(*pairs[0])
    rows = rows_per_band(asked)
    ones, others = (sign(sets, asked).bands for sets in zip(*pairs, strict=True))
    expected = 1 - (1 - truth**rows) ** (NUM_MINIMA // rows)
    assert np.mean((ones == others).any(axis=1)) == pytest.approx(expected, abs=0.1)  # 4 standard errors


@pytest.mark.parametrize("asked", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_bands_find_what_is_as_similar_as_asked_and_no_more_rows_would(asked: float) -> None:
    def recall(rows: int) -> float:
        return 1 - (1 - asked**rows) ** (NUM_MINIMA // rows)

    rows = rows_per_band(asked)
    assert recall(rows) >= 0.99 or rows == 1
    assert all(recall(more) < 0.99 for more in range(rows + 1, NUM_MINIMA + 1))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_low_bytes_of_similar_sets_agree_often_enough(similarity: float) -> None:
    generator = np.random.default_rng(2)
    ones, others = zip(*[pair(generator, similarity, 150) for _ in range(2000)], strict=True)
    agreeing = np.count_nonzero(sign(ones, 0.8).low_bytes == sign(others, 0.8).low_bytes, axis=1)
    assert np.mean(agreeing < least_agreement(similarity)) <= 0.001
    assert np.mean(agreeing < least_agreement(similarity + 0.1)) > 0.01  # the limit is not idle


def test_signatures_of_large_sets_do_not_depend_on_how_they_are_cut() -> None:
    values = np.unique(np.random.default_rng(3).integers(0, 2**32, 10_000, np.uint32))
    halves = np.minimum(minima(values[:5001]), minima(values[5001:]))
    assert minima(values).tolist() == halves.tolist()
