"""Sampling by weights: shares, epochs and state."""

import json
from collections import Counter

import numpy as np
import pytest

from mftcoder.training.sampling import WeightedSampling

ROWS = (60, 30, 6)
EVERY = np.array([True, True, True])


def drawn(share: float, weights: list[float], steps: int, trains=EVERY) -> list[tuple[int, int]]:
    sampling = WeightedSampling(ROWS, 8, share, seed=0)
    return [row for step in range(steps) for row in sampling.rows(step, np.array(weights), np.array(trains))]


@pytest.mark.parametrize(("share", "exponent"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_tasks_get_their_share_of_rows_exactly_but_for_rounding(share, exponent):
    weights = np.array([0.2, 0.3, 0.5])
    counts = Counter(task for task, _ in drawn(share, weights.tolist(), 50))
    expected = np.array(ROWS) ** (1 - exponent) * weights**exponent
    expected *= 400 / expected.sum()
    assert all(abs(counts[task] - expected[task]) <= 1.0 for task in range(3))


def test_every_epoch_of_a_task_has_each_of_its_rows_once_in_an_order_of_its_own():
    rows = [row for task, row in drawn(1.0, [0.0, 0.0, 1.0], 3) if task == 2]
    epochs = [rows[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_tasks_that_are_not_trained_on_are_not_sampled_and_one_weight_zero_neither():
    assert {task for task, _ in drawn(0.5, [1.0, 1.0, 1.0], 5, [True, False, True])} == {0, 2}
    assert {task for task, _ in drawn(0.5, [0.0, 1.0, 1.0], 5)} == {1, 2}
    assert {task for task, _ in drawn(0.5, [-0.1, 1.0, 1.0], 5)} == {1, 2}


def test_a_task_that_stops_training_is_not_sampled_for_what_it_is_owed():
    sampling = WeightedSampling((10, 10, 10), 5, 1.0, seed=0)
    weights = np.ones(3)
    first = Counter(task for task, _ in sampling.rows(0, weights, EVERY))
    owed = min(range(3), key=lambda task: first[task])
    assert sampling.credit[owed] > 0.5
    trains = np.arange(3) != owed
    assert owed not in {task for step in (1, 2) for task, _ in sampling.rows(step, weights, trains)}


def test_tasks_of_as_many_rows_have_orders_of_their_own():
    sampling = WeightedSampling((20, 20), 40, 1.0, seed=0)
    rows = sampling.rows(0, np.ones(2), np.array([True, True]))
    first, second = ([row for task, row in rows if task == which] for which in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_a_step_drawn_ahead_survives_the_checkpoint():
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 9)
    whole = WeightedSampling(ROWS, 8, 0.7, seed=0)
    expected = [whole.rows(step, weights[step], EVERY) for step in range(9)]
    first, resumed = (WeightedSampling(ROWS, 8, 0.7, seed=0) for _ in range(2))
    for step in range(5):  # step 4 was drawn, but not taken, when the state was saved
        first.rows(step, weights[step], EVERY)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    changed = weights[::-1]  # the weights of now are not those of when step 4 was drawn
    found = [resumed.rows(step, changed[step] if step == 4 else weights[step], EVERY) for step in range(4, 9)]
    assert found == expected[4:]
