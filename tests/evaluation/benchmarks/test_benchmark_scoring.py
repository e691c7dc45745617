"""pass@k against every choice of k samples, and its interval against what is known of it."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from mftcoder.evaluation.benchmarks.scoring import bootstrap, pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_with_one_that_passes(samples):
    for passed in range(samples + 1):
        results = [True] * passed + [False] * (samples - passed)
        for k in range(1, samples + 1):
            choices = [any(chosen) for chosen in combinations(results, k)]
            assert pass_at_k(samples, passed, k) == pytest.approx(
                float(Fraction(sum(choices), len(choices))), abs=1e-12
            )


def test_pass_at_k_of_many_samples_neither_overflows_nor_loses_digits():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-9)  # the one that passes is among them
    assert pass_at_k(10_000, 0, 100) == 0.0
    assert pass_at_k(10_000, 10_000, 1) == 1.0


def test_the_interval_is_that_of_a_mean_of_many_problems():
    values = np.array([0.0] * 60 + [1.0] * 40)
    low, high = bootstrap(values)
    spread = 1.96 * np.sqrt(0.4 * 0.6 / 100)
    assert (low, high) == pytest.approx((0.4 - spread, 0.4 + spread), abs=0.02)  # of 2,000 draws, in steps of 0.01
    assert bootstrap(values) == [low, high]


@pytest.mark.parametrize("values", [[0.0] * 5, [1.0] * 5, [0.3]])
def test_problems_that_are_all_alike_have_no_interval(values):
    assert bootstrap(np.array(values)) is None
