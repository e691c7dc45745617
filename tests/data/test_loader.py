"""Order and dealing of rows: a function of seed and position, whatever the number of ranks."""

from collections import Counter

import numpy as np
import pytest
from tiny import random_rows

from mftcoder.data.batch import Batch
from mftcoder.data.loader import Loader, Schedule, collate, steps
from mftcoder.data.mixture import Mixture

TASKS = [random_rows(1, [[5, 3], [7]] * 6), random_rows(2, [[2, 2, 4]] * 4), random_rows(3, [[6]])]
ROWS = tuple(len(rows) for rows in TASKS)  # 12, 4, 1


def seen(batches: list[Batch]) -> list[tuple[int, int]]:
    """(task, sample) of all samples in ``batches``, in order. Keys of rows without tokens are not there."""
    found = []
    for batch in batches:
        rows = (batch.segment_ids.max(dim=1).values).tolist()
        tasks = np.repeat(batch.task_ids.numpy(), rows)
        found += list(zip(tasks.tolist(), batch.sample_keys.tolist(), strict=True))
    return found


def deal(step: int, ranks: int, rows_per_step: int = 6, micro_rows: int = 1) -> list[list[Batch]]:
    """The micro-batches of every rank."""
    schedule = Schedule(Mixture(ROWS, 0), rows_per_step)
    return [
        list(Loader(TASKS, rank, ranks, isolate_samples=True, length=None).deal(schedule.rows(step), micro_rows))
        for rank in range(ranks)
    ]


@pytest.mark.parametrize(("ranks", "micro_rows"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 2), (2, 4)])
def test_every_sample_of_an_epoch_is_seen_exactly_once(ranks, micro_rows):
    schedule = Schedule(Mixture(ROWS, 0), 6)
    everything = Counter(
        (task, int(sample)) for task, rows in enumerate(TASKS) for row in rows for sample in row.sample_ids
    )
    for epoch in range(2):
        steps_of_epoch = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
        dealt = [batches for step in steps_of_epoch for batches in deal(step, ranks, micro_rows=micro_rows)]
        found = Counter(sample for batches in dealt for sample in seen(batches))
        assert found == everything


@pytest.mark.parametrize(("ranks", "micro_rows"), [(2, 1), (3, 1), (2, 2)])
def test_a_step_holds_the_same_rows_in_the_same_order_on_any_number_of_ranks(ranks, micro_rows):
    for step in range(6):
        alone = seen(deal(step, 1)[0])
        dealt = deal(step, ranks, micro_rows=micro_rows)
        rounds = [batches[number] for number in range(len(dealt[0])) for batches in dealt]
        assert seen(rounds) == alone


def test_all_ranks_have_the_same_number_of_micro_batches_also_in_a_short_step():
    dealt = deal(2, 3, rows_per_step=7)  # 17 rows: the third step has 3
    assert {len(batches) for batches in dealt} == {1}
    dealt = deal(2, 2, rows_per_step=7)
    assert [len(batches) for batches in dealt] == [2, 2]
    empty = dealt[1][1]
    assert len(empty.targets) == 0
    assert not empty.segment_ids.any()


def test_steps_go_through_the_mixture_from_its_beginning():
    mixture = Mixture(ROWS, 5)
    schedule = Schedule(mixture, 6)
    rows = [row for step in range(3 * schedule.steps_per_epoch) for row in schedule.rows(step)]
    assert rows == [mixture.row(position) for position in range(3 * 17)]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [[Mixture(ROWS, seed).row(p) for p in range(e * 17, (e + 1) * 17)] for seed in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_reading_ahead_changes_nothing():
    schedule = Schedule(Mixture(ROWS, 3), 6)
    loader = Loader(TASKS, 0, 1, isolate_samples=True, length=None)
    ahead = list(steps(loader, schedule.rows, 2, range(1, 5)))
    assert [seen(batches) for batches in ahead] == [seen(list(loader.deal(schedule.rows(n), 2))) for n in range(1, 5)]


class TestCollate:
    rows = TASKS[0][:2]  # segments 5, 3 and 7

    def test_positions_restart_at_segments_and_at_padding(self):
        batch = collate([(0, row) for row in self.rows], isolate_samples=True, length=10)
        assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]]
        assert batch.segment_ids.tolist() == [[1] * 5 + [2] * 3 + [0, 0], [1] * 7 + [0] * 3]

    def test_positions_run_on_without_isolation(self):
        batch = collate([(0, row) for row in self.rows], isolate_samples=False)
        assert batch.position_ids.tolist() == [list(range(8)), [0, 1, 2, 3, 4, 5, 6, 0]]

    def test_targets_are_the_supervised_tokens_each_behind_its_position(self):
        batch = collate([(2, row) for row in self.rows], isolate_samples=True)
        expected = [
            (8 * b + i - 1, int(row.input_ids[i]))
            for b, row in enumerate(self.rows)
            for i in range(len(row.input_ids))
            if row.supervised[i]
        ]
        assert list(zip(batch.supervised.tolist(), batch.targets.tolist(), strict=True)) == expected
        flat = batch.segment_ids.flatten()
        assert all(flat[s] == flat[s + 1] for s in batch.supervised)
        assert batch.supervised_tasks.tolist() == [2] * len(expected)
        assert batch.sample_keys[batch.sample_ids].tolist() == [
            int(sample)
            for row in self.rows
            for sample, on in zip(np.repeat(row.sample_ids, row.segment_lengths), row.supervised, strict=True)
            if on
        ]
