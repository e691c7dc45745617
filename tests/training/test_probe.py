"""The probe: which rows are looked at, how often, and what that costs."""

import numpy as np
import pytest

from mftcoder.config.schema import CoBa, FamoValid, Probe, Uniform
from mftcoder.data.loader import Loader
from mftcoder.data.shards import Row
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import build
from mftcoder.tasks import TaskSet
from mftcoder.training.probe import make_probe

LENGTH = 100  # tokens of every row
FORWARD_SHARE = 1 / 3  # of the time of a training step


def loader(rows_per_task: list[int]) -> Loader:
    row = Row(
        input_ids=np.zeros(LENGTH, np.int64),
        supervised=np.ones(LENGTH, bool),
        segment_lengths=np.array([LENGTH]),
        sample_ids=np.array([0]),
    )
    return Loader([[row] * n for n in rows_per_task], rank=0, num_ranks=1, isolate_samples=True, length=None)


def probe_of(weighting, rows_per_task: list[int], rows_per_step: int = 8):
    return make_probe(
        weighting, loader(rows_per_task), rows_per_step=rows_per_step, tokens_per_step=rows_per_step * LENGTH
    )


def test_the_default_is_a_like_number_of_rows_of_every_task_for_five_percent():
    probe = probe_of(CoBa(type="coba"), [50, 50, 50])
    assert probe.every_steps == 20
    (rows,) = probe.mini_batches
    assert rows == [(task, row) for task in range(3) for row in range(8)]
    assert FORWARD_SHARE * len(rows) / (probe.every_steps * 8) == pytest.approx(0.05)


@pytest.mark.parametrize("num_tasks", [24, 25, 100, 1000])
def test_with_many_tasks_it_is_looked_at_less_often_and_costs_no_more(num_tasks):
    weighting = CoBa(type="coba")
    probe = probe_of(weighting, [3] * num_tasks)
    (rows,) = probe.mini_batches
    assert {task for task, _ in rows} == set(range(num_tasks))
    assert probe.sparse == (probe.every_steps > 20)
    cost = FORWARD_SHARE * len(rows) / (probe.every_steps * 8)
    assert 0.045 < cost <= 0.05
    tasks = TaskSet(tuple(f"task-{number}" for number in range(num_tasks)))
    coba = build(weighting, tasks, every_steps=probe.every_steps)
    assert coba.window_steps / probe.every_steps >= 5  # looks in the window of a slope
    assert coba.warmup_steps / probe.every_steps >= 2


def test_what_is_asked_for_is_taken():
    probe = probe_of(FamoValid(type="famo_valid", probe=Probe(every_steps=3, tokens=900)), [9, 9, 1])
    assert probe.every_steps == 3
    assert probe.mini_batches == [[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]]
    assert probe_of(CoBa(type="coba", probe=Probe(tokens=100)), [1] * 100).every_steps == 20


def test_a_window_without_two_looks_is_refused():
    with pytest.raises(MftcoderError, match=r"window_steps: must be more than the 84 steps .* found 80"):
        probe_of(CoBa(type="coba", window_steps=80), [3] * 100)


def test_the_paper_looks_at_every_row_in_turn_in_mini_batches_of_a_step():
    probe = probe_of(CoBa(type="coba", preset="paper"), [20, 11, 1])
    assert probe.every_steps == 1
    assert len(probe.mini_batches) == 4
    assert sorted(row for rows in probe.mini_batches for row in rows) == [
        (task, row) for task, number in enumerate([20, 11, 1]) for row in range(number)
    ]
    assert [probe.turn(step) for step in range(6)] == [0, 1, 2, 3, 0, 1]


def test_without_a_weighting_that_watches_or_rows_to_watch():
    assert probe_of(Uniform(), [3]) is None
    assert probe_of(CoBa(type="coba"), [0, 0]).mini_batches == [[]]
