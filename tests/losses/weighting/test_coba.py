import json
from itertools import pairwise

import numpy as np
import pytest

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses import simulate
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.losses.weighting.base import softmax
from mftcoder.losses.weighting.coba_terms import common_divergence, window_slopes
from mftcoder.tasks import TaskSet

NAN = float("nan")
COBA = {"type": "coba", "window_steps": 40, "warmup_steps": 20}


def coba(num_tasks=2, **settings):
    section = schema.CoBa(**{**COBA, **settings})
    return build(section, TaskSet(tuple(f"task-{i}" for i in range(num_tasks))))


def losses(*values):
    return TaskLosses(np.array(values, dtype=np.float64), ~np.isnan(values))


def observed(weighting, rows, steps=None):
    for step, row in zip(steps or range(len(rows)), rows, strict=True):
        weighting.observe("validation", step, losses(*row))
    return weighting


def walk(num_steps, num_tasks, seed=0):
    return 2 + np.cumsum(np.random.default_rng(seed).normal(-0.003, 0.01, (num_steps, num_tasks)), axis=0)


# The maths


def test_window_slopes_are_those_of_polyfit_on_irregular_steps_with_gaps():
    rng = np.random.default_rng(1)
    steps = np.sort(rng.choice(10**5, 30, replace=False)).astype(np.float64)
    ratios = rng.normal(1, 0.1, (30, 4))
    ratios[rng.random((30, 4)) < 0.3] = NAN
    for task, slope in enumerate(window_slopes(steps, ratios)):
        seen = np.isfinite(ratios[:, task])
        expected = np.polyfit(steps[seen] - steps.mean(), ratios[seen, task], 1)[0]
        assert slope == pytest.approx(expected, rel=1e-9)


def test_a_slope_needs_two_ratios():
    ratios = np.array([[1.0, NAN, 1.0], [NAN, NAN, 0.5]])
    np.testing.assert_array_equal(window_slopes(np.array([0.0, 10.0]), ratios), [NAN, NAN, -0.05])


def test_softmax_survives_scores_beyond_the_range_of_exp():
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0, -1000.0])), [0.5, 0.5, 0.0])


def test_divergence_factor_by_hand():
    # Eq. 7 for the slopes (-1, 1), tau = 1: exponents -1·(-1)/1 = 1 and -2·1/2 = -1 (running); 1 and -1 (common)
    by_hand = 2 * np.exp(-1) / (np.exp(1) + np.exp(-1))
    assert common_divergence(np.array([-1.0, 1.0]), 1.0) == pytest.approx(by_hand, rel=1e-14)
    # (1, 3): running exponents -1 and -2·3/4; common -2·1/4 and -2·3/4
    assert common_divergence(np.array([1.0, 3.0]), 1.0) == pytest.approx(
        2 * np.exp(-1.5) / (np.exp(-0.5) + np.exp(-1.5))
    )
    found = simulate(
        # Losses whose slopes over the last two steps are 1, then 3; with one task α_max is its slope.
        {"type": "coba", "window_steps": 2, "warmup_steps": 0, "temperature": 1},
        [[1.0], [2.0], [5.0]],
    )
    np.testing.assert_allclose(found["slopes"][:, 0], [NAN, 1, 3], rtol=1e-14)
    assert found["df"][2] == pytest.approx(2 * np.exp(-1.5) / (np.exp(-1) + np.exp(-1.5)), rel=1e-14)


# What the paper promises


@pytest.mark.parametrize("divergence_factor", ["running", "common"])
def test_constant_slopes_leave_rcs_alone_and_the_slower_task_is_heavier(divergence_factor):
    steps = np.arange(200)
    rows = np.stack([1 - 0.004 * steps, 1 - 0.001 * steps], axis=1)
    found = simulate({**COBA, "divergence_factor": divergence_factor}, rows)
    np.testing.assert_allclose(found["df"][20:], 1, atol=1e-12)
    # K·α/Σ|α| = 2·(-.8, -.2)
    np.testing.assert_allclose(found["weights"][20:], [softmax(np.array([-1.6, -0.4]))] * 180, atol=1e-10)
    assert found["weights"][-1, 1] > found["weights"][-1, 0]


@pytest.mark.parametrize("divergence_factor", ["running", "common"])
@pytest.mark.parametrize("start", [100, 160])
def test_a_diverging_task_loses_its_weight_even_below_the_top_ratio(divergence_factor, start):
    steps = np.arange(400.0)
    converging = 1 - 0.002 * steps
    diverging = 1 - 0.003 * np.minimum(steps, start) + 0.003 * np.maximum(steps - start, 0)
    slow = 1 - 0.0001 * steps  # has the largest ratio while the other starts to diverge
    found = simulate({**COBA, "divergence_factor": divergence_factor}, np.stack([converging, diverging, slow], axis=1))
    turned = start + 40  # the whole window is past the turn; the whole history 40 steps later
    assert found["df"][turned] < 0.05
    assert found["ratios"][turned + 40, 1] < found["ratios"][turned + 40, 2]
    # ACS: a history of one sign gives -α·n/Σ|α| = ±1
    np.testing.assert_allclose(found["acs"][turned + 40], softmax(np.array([1.0, -1.0, 1.0])), atol=1e-10)
    assert found["weights"][turned + 40, 1] == pytest.approx(0.063, abs=0.005)


@pytest.mark.parametrize("divergence_factor", ["running", "common"])
def test_tasks_that_all_accelerate_keep_df_at_1(divergence_factor):
    steps = np.arange(200.0)[:, None]
    found = simulate({**COBA, "divergence_factor": divergence_factor}, 3 - steps**2 * np.array([1e-5, 2e-5, 3e-5]))
    np.testing.assert_allclose(found["df"][20:], 1, atol=1e-12)


# The rules at the edges


def test_weights_are_uniform_before_the_warm_up_ends_and_move_then():
    found = simulate({**COBA, "warmup_steps": 25}, walk(60, 3))
    assert (found["weights"][:25] == 1 / 3).all()
    assert np.isnan(found["df"][:25]).all()
    assert not np.isclose(found["weights"][25], 1 / 3, atol=1e-3).all()


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 10])
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_identical_tasks_weigh_exactly_the_same(num_tasks, floor):
    found = simulate({**COBA, "floor": floor}, np.repeat(walk(100, 1), num_tasks, axis=1))
    np.testing.assert_array_equal(found["weights"], 1 / num_tasks)


def test_rounding_noise_on_a_plateau_is_no_slope():
    rows = np.ones((80, 3))
    rows[1::2, 0] += 2.0**-52
    rows[1::3, 1] -= 2.0**-53
    found = simulate({**COBA, "window_steps": 4}, rows)
    assert (found["slopes"][4:] != 0).any()
    np.testing.assert_array_equal(found["weights"], 1 / 3)
    np.testing.assert_allclose(found["df"][20:], 1, atol=1e-12)


def test_a_task_that_never_had_a_slope_weighs_exactly_1_over_k_and_the_others_share_the_rest_as_if_alone():
    rows = walk(80, 3)
    alone = simulate(COBA, rows[:, :2])["weights"]
    rows[1:, 2] = NAN
    found = simulate(COBA, rows)
    assert (found["weights"][:, 2] == 1 / 3).all()
    assert np.isnan(found["slopes"][:, 2]).all()
    np.testing.assert_allclose(found["weights"][:, :2], alone * 2 / 3, rtol=1e-12)


def test_a_task_without_two_losses_in_the_window_keeps_its_last_slope():
    rows = walk(150, 2)
    rows[60:, 1] = NAN
    found = simulate(COBA, rows)
    # At step 97 the window (57, 97] still holds the losses of steps 58 and 59; from 98 on only one, then none.
    assert found["slopes"][97, 1] == pytest.approx((rows[59, 1] - rows[58, 1]) / rows[0, 1], rel=1e-9)
    assert (found["slopes"][98:, 1] == found["slopes"][97, 1]).all()


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_a_missing_one_and_is_counted(bad):
    rows = walk(100, 2)
    rows[30, 0] = rows[31, 0] = bad
    without = rows.copy()
    without[30:32, 0] = NAN
    found, expected = simulate(COBA, rows), simulate(COBA, without)
    np.testing.assert_array_equal(found["weights"], expected["weights"])
    np.testing.assert_array_equal(found["missing"][-1], [2, 0])
    assert np.isfinite(found["weights"]).all()


def test_the_first_usable_loss_is_the_base():
    weighting = observed(coba(3), [(NAN, 0.0, 2.0), (3.0, 4.0, 1.0), (1.5, 1.0, 1.0)])
    np.testing.assert_array_equal(weighting.base, [[3, 4, 2]])
    np.testing.assert_array_equal(weighting.ratios, [0.5, 0.25, 0.5])
    np.testing.assert_array_equal(weighting.missing, [1, 1, 0])


def test_the_scale_of_a_task_s_loss_does_not_matter():
    rows = walk(120, 3)
    found = simulate(COBA, rows * np.array([1e-3, 1.0, 1e3]))
    np.testing.assert_allclose(found["weights"], simulate(COBA, rows)["weights"], atol=1e-10)


def test_slopes_are_per_step_whatever_the_interval():
    rows = np.stack([1 - 0.002 * np.arange(20.0), 1 - 0.001 * np.arange(20.0)], axis=1)
    every = simulate({**COBA, "window_steps": 50}, rows, interval=10)
    np.testing.assert_allclose(every["slopes"][1:], [[-0.0002, -0.0001]] * 19, rtol=1e-9)
    assert np.isnan(every["df"][:2]).all()  # steps 0 and 10 lie before the end of the warm-up at 20
    assert np.isfinite(every["df"][2:]).all()


def test_the_floor_is_met_and_keeps_the_order():
    rows = np.stack([1 - 0.01 * np.arange(80.0), np.ones(80)], axis=1)
    plain = simulate(COBA, rows)["weights"]
    floored = simulate({**COBA, "floor": 0.2}, rows)["weights"]
    np.testing.assert_allclose(floored, 0.6 * plain + 0.2, atol=1e-14)
    assert (floored >= 0.2).all()


def test_a_floor_that_leaves_nothing_to_share_is_refused():
    with pytest.raises(MftcoderError, match=r"loss\.weighting\.floor: must be below .* 0\.25; found 0\.3"):
        coba(4, floor=0.3)


@pytest.mark.parametrize("again", [7, 3])
def test_a_step_seen_twice_or_going_back_is_refused(again):
    weighting = observed(coba(), walk(8, 2))
    with pytest.raises(MftcoderError, match=f"found step {again} after step 7"):
        weighting.observe("validation", again, losses(1.0, 1.0))


# The state


def test_weights_move_only_at_validations_and_are_renormalised_over_the_tasks_present():
    weighting = observed(coba(3), walk(50, 3))
    before = weighting.weights(50, np.ones(3))
    for step in range(50, 60):
        weighting.observe("train", step, losses(9.0 - step, 1.0, NAN))
        present = weighting.weights(step, np.array([1.0, 0.0, 300.0]))
        np.testing.assert_allclose(
            present, [before[0] / (before[0] + before[2]), 0, before[2] / (before[0] + before[2])]
        )
    np.testing.assert_array_equal(weighting.weights(60, np.ones(3)), before)
    weighting.observe("validation", 60, losses(1.0, 1.0, 1.0))
    assert (weighting.weights(60, np.ones(3)) != before).all()


@pytest.mark.parametrize("divergence_factor", ["running", "common"])
@pytest.mark.parametrize("cut", [0, 1, 15, 70])
def test_a_run_resumed_from_json_goes_on_bit_for_bit(divergence_factor, cut):
    rows = walk(150, 3)
    rows[10:30, 1] = NAN
    rows[:90, 2] = NAN
    whole = observed(coba(3, divergence_factor=divergence_factor), rows[:cut])
    resumed = coba(3, divergence_factor=divergence_factor)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    for step in range(cut, len(rows)):
        for weighting in (whole, resumed):
            weighting.observe("validation", step, losses(*rows[step]))
        assert whole.weights(step, np.ones(3)).tobytes() == resumed.weights(step, np.ones(3)).tobytes()
        for name, values in whole.diagnostics().items():
            assert values.tobytes() == resumed.diagnostics()[name].tobytes(), name
    assert whole.state_dict() == resumed.state_dict()


def test_a_restored_state_has_the_weights_and_diagnostics_of_the_saved_one():
    saved = observed(coba(2), walk(60, 2))
    restored = coba(2)
    restored.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    np.testing.assert_array_equal(restored.weights(60, np.ones(2)), saved.weights(60, np.ones(2)))
    for name, values in saved.diagnostics().items():
        np.testing.assert_array_equal(restored.diagnostics()[name], values)


def test_a_saved_state_does_not_change_when_the_run_goes_on():
    rows = walk(60, 2)
    weighting = observed(coba(2), rows[:50])
    state = weighting.state_dict()
    before = json.dumps(state)
    observed(weighting, rows[50:], steps=list(range(50, 60)))
    assert json.dumps(state) == before


def test_the_state_of_other_tasks_is_refused_and_both_lists_are_named():
    with pytest.raises(
        MftcoderError, match=r"2 tasks \(task-0, task-1\), but the run has 3 \(task-0, task-1, task-2\)"
    ):
        coba(3).load_state_dict(coba(2).state_dict())


def test_the_state_does_not_grow_with_the_run():
    sizes = [len(json.dumps(observed(coba(2), walk(n, 2)).state_dict())) for n in (100, 1000)]
    assert abs(np.subtract(*sizes)) < 0.05 * sizes[0]


def test_diagnostics_keep_their_names_and_shapes_from_the_start():
    weighting = coba(3)
    names = ["slopes", "rcs", "acs", "df", "ratios", "missing"]
    shapes = []
    for step, row in enumerate(walk(40, 3)):
        diagnostics = weighting.diagnostics()
        assert list(diagnostics) == names
        shapes.append({name: values.shape for name, values in diagnostics.items()})
        weighting.observe("validation", step, losses(*row))
    assert all(before == after for before, after in pairwise(shapes))
