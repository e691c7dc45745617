"""Sampling policies: what an epoch holds, in which order, and how often it repeats a row."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mftcoder.config.schema import Sampling
from mftcoder.data.mixture import Mixture, apportion, epoch_note, make_mixture

ROWS = (60, 25, 7, 1)
ROWS_BY_NAME = dict(zip("abcd", ROWS, strict=True))
POLICIES = {
    "proportional": {"type": "proportional"},
    "temperature": {"type": "temperature", "temperature": 2.0},
    "given": {"type": "given", "shares": {"a": 1.0, "b": 5.0, "c": 3.0, "d": 0.5}},
    "equal": {"type": "equal"},
    "equal, at most 4 passes": {"type": "equal", "max_passes": 4.0},
}
SHARES = {  # by hand
    "proportional": np.array(ROWS) / 93,
    "temperature": np.sqrt(ROWS) / np.sqrt(ROWS).sum(),
    "given": np.array([1, 5, 3, 0.5]) / 9.5,
    "equal": np.full(4, 0.25),
    "equal, at most 4 passes": np.array([30.5, 30.5, 28, 4]) / 93,
}
every_policy = pytest.mark.parametrize("policy", POLICIES)
sizes = st.lists(st.integers(1, 400), min_size=1, max_size=7)


def mixture(policy: str, seed: int = 0) -> Mixture:
    return make_mixture(TypeAdapter(Sampling).validate_python(POLICIES[policy]), ROWS_BY_NAME, seed)


@every_policy
def test_shares_of_an_epoch_are_those_asked_for_to_a_row(policy):
    mixed = mixture(policy)
    assert len(mixed) == 93
    for epoch in range(3):
        counts = Counter(mixed.row(epoch * 93 + offset)[0] for offset in range(93))
        assert all(abs(counts[task] - 93 * share) < 1 for task, share in enumerate(SHARES[policy]))
        assert counts == Counter(dict(enumerate(mixed.rows_per_epoch)))


@every_policy
def test_no_row_comes_again_before_every_other_row_of_its_task_has(policy):
    mixed = mixture(policy)
    drawn = [mixed.row(position) for position in range(12 * 93)]
    for task, num_rows in enumerate(ROWS):
        rows = [row for its_task, row in drawn if its_task == task]
        passes = [rows[start : start + num_rows] for start in range(0, len(rows), num_rows)]
        assert all(sorted(whole) == list(range(num_rows)) for whole in passes[:-1])
        assert len(set(passes[-1])) == len(passes[-1])
        assert num_rows < 25 or len({tuple(whole) for whole in passes}) == len(passes)


@every_policy
def test_the_order_is_one_of_many_equally_likely_ones_and_a_function_of_the_position(policy):
    mixed = mixture(policy)
    forwards = [mixed.row(position) for position in range(279)]
    backwards = [mixed.row(position) for position in reversed(range(279))]
    assert forwards == backwards[::-1]
    assert forwards != [mixture(policy, seed=1).row(position) for position in range(279)]
    # The mean position of a task's rows within an epoch: 46 ± 27 / sqrt(rows · epochs), here up to 5 sigma.
    for task, per_epoch in enumerate(mixed.rows_per_epoch):
        places = [place for place in range(93 * 100) if mixed.row(place)[0] == task]
        assert abs(np.mean([place % 93 for place in places]) - 46) < 5 * 27 / np.sqrt(per_epoch * 100)


@given(sizes, st.data())
def test_numbers_are_the_exact_quotas_rounded_up_or_down_where_no_bound_binds(rows, data):
    total = sum(rows)
    weights = data.draw(st.lists(st.integers(1, 50), min_size=len(rows), max_size=len(rows)))
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    found = apportion(total, np.array(weights, np.float64), np.full(len(rows), np.inf))
    assert sum(found) == total
    assert min(found) >= 1
    if min(exact) >= 1:
        raised = [number - int(quota) for number, quota in zip(found, exact, strict=True)]
        assert set(raised) <= {0, 1}
        remainders = {up: [quota % 1 for quota, r in zip(exact, raised, strict=True) if r == up] for up in (0, 1)}
        assert min(remainders[1], default=1) > max(remainders[0], default=0) - 1e-9


@given(sizes, st.integers(1, 6))
def test_equal_shares_with_most_passes_are_those_of_unimax(rows, most_passes):
    """Against the algorithm as published: tasks from the smallest on take the rest's equal part, or all they may."""
    budget, quotas = Fraction(sum(rows)), {}
    for place, task in enumerate(sorted(range(len(rows)), key=lambda task: rows[task])):
        quotas[task] = min(budget / (len(rows) - place), Fraction(most_passes * rows[task]))
        budget -= quotas[task]
    found = apportion(sum(rows), np.ones(len(rows)), np.array(rows) * float(most_passes))
    assert sum(found) == sum(rows)
    assert all(abs(number - quotas[task]) < 1 for task, number in enumerate(found))
    assert all(number <= most_passes * size for number, size in zip(found, rows, strict=True))


def test_one_pass_at_most_is_proportional_sampling_whatever_the_shares():
    policy = {"type": "given", "shares": {"a": 1.0, "b": 500.0, "c": 3.0, "d": 2.0}, "max_passes": 1.0}
    assert make_mixture(TypeAdapter(Sampling).validate_python(policy), ROWS_BY_NAME, 0).rows_per_epoch == ROWS


def test_a_share_of_nearly_nothing_still_gives_a_row():
    assert apportion(100, np.array([1e-12, 1.0, 1e-300]), np.full(3, np.inf)) == (1, 98, 1)


def test_a_share_of_less_than_a_row_gives_one_before_others_are_rounded_up():
    assert apportion(100, np.array([0.1, 49.95, 49.95]), np.full(3, np.inf)) == (1, 50, 49)


def test_what_an_epoch_holds_is_told():
    equal = TypeAdapter(Sampling).validate_python({"type": "equal"})
    assert epoch_note(equal, "abcd", mixture("equal")) == (
        "an epoch has 93 rows: a 24 (0.40 passes), b 23 (0.92 passes), c 23 (3.29 passes), d 23 (23.00 passes)"
    )
