import json

import numpy as np
import pytest

from mftcoder.losses.weighting import TaskLosses
from mftcoder.training.early_stopping import EarlyStopping

NAN = float("nan")


def losses(*values):
    return TaskLosses(np.array(values, dtype=np.float64), ~np.isnan(values))


def evaluated(stopping, *rows, per_epoch=1):
    return [stopping.observe(10 * i, i / per_epoch, losses(*row)) for i, row in enumerate(rows)]


def test_every_task_counts_by_its_ratio_whatever_its_loss_in_nats():
    stopping = EarlyStopping(2, "evaluations")
    # The mean loss falls (101 -> 91.5), but the mean ratio rises: (0.9 + 1.5) / 2.
    assert evaluated(stopping, (100.0, 2.0), (90.0, 3.0)) == [True, False]
    assert stopping.best == 1.0
    np.testing.assert_allclose(stopping.ratios, [0.9, 1.5])


def test_it_stops_after_patience_evaluations_without_a_better_one():
    stopping = EarlyStopping(2, "evaluations")
    improved, stops = [], []
    for step, loss in enumerate([2.0, 1.0, 1.5, 0.9, 0.9, 1.0, 0.8]):
        improved.append(stopping.observe(step, step / 100, losses(loss)))
        stops.append(stopping.should_stop)
    assert improved == [True, True, False, True, False, False, True]  # an equal one is not better
    assert stops == [False, False, False, False, False, True, False]
    assert (stopping.best_step, stopping.best) == (6, 0.4)


def test_patience_in_epochs_counts_epochs_since_the_best_despite_rounding():
    stopping = EarlyStopping(2, "epochs")
    for epoch, stop in [(0.3, False), (1.3, False), (2.2, False), (2.3, True)]:
        stopping.observe(int(10 * epoch), epoch, losses(1.0))
        assert stopping.should_stop == stop, epoch


def test_without_patience_it_never_stops_but_knows_the_best():
    stopping = EarlyStopping(None, "evaluations")
    evaluated(stopping, (1.0,), (0.5,), *[(2.0,)] * 50)
    assert not stopping.should_stop
    assert stopping.best_step == 10


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_absent_and_non_finite_tasks_are_left_out_of_the_mean(bad):
    stopping = EarlyStopping(1, "evaluations")
    assert evaluated(stopping, (2.0, 4.0), (1.0, bad), (1.2, 1.0)) == [True, True, True]
    assert stopping.best == pytest.approx((0.6 + 0.25) / 2)


def test_an_evaluation_without_any_usable_loss_does_not_count():
    stopping = EarlyStopping(2, "evaluations")
    assert evaluated(stopping, (NAN, NAN), (1.0, NAN), (2.0, NAN), (NAN, NAN), (NAN, NAN)) == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert not stopping.should_stop
    stopping.observe(60, 6.0, losses(1.5, NAN))
    assert stopping.should_stop


def test_the_base_is_each_task_s_first_finite_evaluation():
    stopping = EarlyStopping(None, "evaluations")
    evaluated(stopping, (NAN, 4.0), (8.0, 2.0), (4.0, 1.0))
    np.testing.assert_array_equal(stopping.ratios, [0.5, 0.25])


@pytest.mark.parametrize("unit", ["evaluations", "epochs"])
@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5])
def test_resumed_from_json_it_decides_the_same(unit, cut):
    rows = [(NAN, 3.1), (1 / 3, 3.0), (0.2, 2.0), (0.3, 2.5), (0.25, 2.4), (0.19, 1.0), (0.3, NAN), (0.3, 2.0)]
    whole = EarlyStopping(2, unit)
    evaluated(whole, *rows[:cut])
    resumed = EarlyStopping(2, unit)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    assert whole.should_stop == resumed.should_stop == (cut == 5)
    for i in range(cut, len(rows)):
        improved = [stopping.observe(10 * i, float(i), losses(*rows[i])) for stopping in (whole, resumed)]
        assert improved[0] == improved[1]
        assert whole.should_stop == resumed.should_stop
        assert (whole.best, whole.best_step) == (resumed.best, resumed.best_step)
        np.testing.assert_array_equal(whole.ratios, resumed.ratios)
