"""The overfit guard, by hand, and the standard errors it rests on."""

import json

import numpy as np
import pytest
import torch
from tiny import random_rows

from mftcoder.data.loader import collate
from mftcoder.losses.guard import LAG_STEPS, OverfitGuard
from mftcoder.losses.reductions import mean_losses, moments
from mftcoder.losses.weighting import TaskLosses
from mftcoder.tasks import TaskSet

TASKS = TaskSet(("a", "b"))


def look(a: float, b: float, error: float = 0.1) -> TaskLosses:
    values = np.array([a, b])
    return TaskLosses(values, ~np.isnan(values), standard_errors=np.full(2, error))


def guard() -> OverfitGuard:
    return OverfitGuard(TASKS, patience=2, tolerance=1.0)


def test_a_task_is_stopped_after_patience_looks_beyond_its_best_and_the_error():
    watched = guard()
    a = [2.0, 1.5, 1.55, 1.7, 1.55, 1.7, 1.7, 1.9]  # worse by more than .1: the 4th; then the 6th and 7th in a row
    found = [watched.observe(step, look(value, 3.0 - step / 10)) for step, value in enumerate(a)]
    assert found == [[], [], [], [], [], [], ["a"], []]
    assert watched.trains(0, 6 + LAG_STEPS - 1)
    assert not watched.trains(0, 6 + LAG_STEPS)
    assert watched.trains(1, 10**9)


def test_missing_and_infinite_losses_say_nothing():
    watched = guard()
    for step, value in enumerate([1.0, 2.0, np.nan, np.inf, np.nan]):
        assert watched.observe(step, look(value, 1.0)) == []
    assert watched.observe(9, look(2.0, 1.0)) == ["a"]  # the second worse look in a row


def test_state_survives_json_in_the_middle():
    steps = [(1.0, 1.0), (1.5, 0.9), (1.5, 1.4), (1.5, 1.4), (0.1, 1.4)]
    whole, first = guard(), guard()
    for step, losses in enumerate(steps[:2]):
        first.observe(step, look(*losses))
    resumed = guard()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    found = [whole.observe(step, look(*losses)) for step, losses in enumerate(steps)]
    assert [resumed.observe(step, look(*losses)) for step, losses in enumerate(steps) if step >= 2] == found[2:]
    assert whole.state_dict() == resumed.state_dict()


@pytest.mark.parametrize("unit", ["token", "sample"])
def test_mean_losses_and_their_errors_are_those_of_the_samples_one_by_one(unit):
    rows = [(t, row) for t, row in zip((0, 2, 0), random_rows(0, [[9, 4, 7], [12, 3], [15]]), strict=True)]
    batches = [collate(rows[:2], isolate_samples=True), collate(rows[2:], isolate_samples=True)]
    generator = torch.Generator().manual_seed(0)
    nlls = [torch.rand(len(batch.targets), generator=generator) for batch in batches]
    sums = sum(moments(nll, batch, 3, unit) for nll, batch in zip(nlls, batches, strict=True))
    found = mean_losses(sums.numpy())
    for task in (0, 2):
        samples = [
            nll[(batch.sample_ids == sample)].double().numpy()
            for nll, batch in zip(nlls, batches, strict=True)
            for sample in batch.sample_ids[batch.supervised_tasks == task].unique()
        ]
        totals = np.array([s.sum() if unit == "token" else s.mean() for s in samples])
        units = np.array([len(s) if unit == "token" else 1.0 for s in samples])
        mean = totals.sum() / units.sum()
        assert found.values[task] == pytest.approx(mean, rel=1e-12)
        expected = np.sqrt(((totals - mean * units) ** 2).sum()) / units.sum()
        assert found.standard_errors[task] == pytest.approx(expected, rel=1e-9)
    assert not found.present[1]
    assert np.isnan(found.values[1])
