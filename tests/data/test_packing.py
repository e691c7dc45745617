import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.data.packing import best_fit_decreasing, fill_exactly, pack, shuffle_rows
from mftcoder.data.permutation import permutation, splitmix64

CAPACITY = 20
lengths_strategy = st.lists(st.integers(1, CAPACITY), max_size=40)


def brute_force(lengths: list[int]) -> list[list[int]]:
    rows: list[list[int]] = []
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        spaces = [CAPACITY - sum(lengths[i] for i in row) for row in rows]
        fitting = [r for r, space in enumerate(spaces) if space >= lengths[sample]]
        if fitting:
            rows[min(fitting, key=lambda r: spaces[r])].append(sample)
        else:
            rows.append([sample])
    return rows


def rows_of(layout) -> list[list[int]]:
    return [layout.order[a:b].tolist() for a, b in zip(layout.row_starts[:-1], layout.row_starts[1:], strict=True)]


@given(lengths_strategy)
def test_rows_are_those_of_a_search_through_all_rows(lengths: list[int]) -> None:
    assert rows_of(best_fit_decreasing(np.array(lengths, np.int32), CAPACITY)) == brute_force(lengths)


@given(lengths_strategy)
def test_filling_exactly_closes_a_row_only_when_nothing_left_fits(lengths: list[int]) -> None:
    rows = rows_of(fill_exactly(np.array(lengths, np.int32), CAPACITY))
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    for number, row in enumerate(rows):
        space = CAPACITY - sum(lengths[sample] for sample in row)
        assert space >= 0
        assert all(lengths[sample] > space for later in rows[number + 1 :] for sample in later)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([7, 7, 7, 7, 6, 6, 6, 6], [[0, 1, 4], [2, 3, 5]]),
        ([10, 10, 10], [[0, 1], [2]]),  # a pair of one length needs two of them
        ([11, 9, 5, 4], [[0, 1], [2, 3]]),
    ],
)
def test_exact_fits_by_hand(lengths: list[int], rows: list[list[int]]) -> None:
    found = rows_of(fill_exactly(np.array(lengths, np.int32), CAPACITY))
    assert [sorted(row) for row in found][: len(rows)] == rows


def test_a_row_that_nothing_fills_at_once_begins_with_the_longest_sample() -> None:
    lengths = [2] * 30 + [15]
    assert rows_of(fill_exactly(np.array(lengths, np.int32), CAPACITY))[0][0] == 30


@pytest.mark.parametrize(("shortest", "spread"), [(1, 0.4), (1, 1.0), (75, 0.4), (75, 1.0), (150, 1.0)])
def test_twenty_thousand_samples_leave_a_thousandth_unfilled(shortest: int, spread: float) -> None:
    lengths = shortest + np.clip(np.random.default_rng(1).lognormal(5, spread, 20_000), 0, 3900).astype(np.int32)
    layout = pack(lengths, 4096, "pack", 1)
    assert 1 - lengths.sum() / (4096 * (len(layout.row_starts) - 2)) <= 0.001  # the last row apart


@given(lengths_strategy, st.integers(0, 5))
def test_a_shuffle_moves_whole_rows(lengths: list[int], seed: int) -> None:
    layout = best_fit_decreasing(np.array(lengths, np.int32), CAPACITY)
    order = np.random.default_rng(seed).permutation(len(layout.row_starts) - 1)
    assert rows_of(shuffle_rows(layout, order)) == [rows_of(layout)[row] for row in order]


@pytest.mark.parametrize("mode", ["pack", "pad", "pad_to_max"])
def test_every_sample_has_one_place_and_no_row_overflows(mode: str) -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1, 5000), 1, 512).astype(np.int32)
    layout = pack(lengths, 512, mode, 1)
    assert sorted(layout.order.tolist()) == list(range(5000))
    filled = [lengths[row].sum() for row in rows_of(layout)]
    assert max(filled) <= 512
    assert len(filled) == 5000 if mode != "pack" else len(filled) <= math.ceil(lengths.sum() / 512 * 1.01)


def test_the_order_of_rows_is_one_of_many_that_the_key_chooses() -> None:
    lengths = np.full(20, 7)
    orders = [tuple(pack(lengths, 7, "pack", *key).order) for key in [(1, 2), (1, 2), (1, 3), (2, 2)]]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def test_a_length_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="lengths must lie in 1 … 20; found 3 … 21"):
        best_fit_decreasing(np.array([3, 21]), CAPACITY)


def test_splitmix64_gives_the_published_numbers() -> None:
    # The well-known first outputs for this seed, found with implementations in many languages.
    assert splitmix64(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_the_permutation_never_changes() -> None:
    assert permutation(10, 42, 0).tolist() == [6, 2, 5, 7, 0, 9, 4, 3, 8, 1]
    assert permutation(10, 42, 7).tolist() == [0, 1, 9, 4, 7, 2, 5, 8, 3, 6]


def test_every_order_is_equally_likely() -> None:
    trials = 12_000
    seen = Counter(tuple(permutation(4, seed, epoch).tolist()) for seed in range(100) for epoch in range(trials // 100))
    expected = trials / 24
    chi_squared = sum((seen[order] - expected) ** 2 / expected for order in seen)
    assert len(seen) == 24
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    orders = [tuple(permutation(20, *key)) for key in [(1, 2), (2, 1), (3, 0), (0, 3), (3,), (-3,)]]
    assert len(set(orders)) == len(orders)
