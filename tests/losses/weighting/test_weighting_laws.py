"""Laws of every weighting, on generated histories: absent tasks, losses that are not finite, any order of tasks."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import WEIGHTINGS, TaskLosses, build
from mftcoder.tasks import TaskSet

# Short windows and large steps, so that short histories show everything.
SECTIONS = {
    "uniform": {},
    "proportional": {},
    "given": {"weights": {}},  # filled in for the tasks at hand
    "famo": {"learning_rate": 0.5},
    "famo_valid": {"learning_rate": 0.5},
    "lbtw": {},
    "lbtw_valid": {},
    "dwa": {"window_steps": 3},
    "uncertainty": {"learning_rate": 0.5},
    "gradnorm": {"learning_rate": 0.5},
    "gradnorm_valid": {"learning_rate": 0.5},
    "coba": {"window_steps": 6, "warmup_steps": 2},
    "multiplicative": {"learning_rate": 1.0},
}
OBSERVING = [name for name in SECTIONS if name not in ("uniform", "proportional", "given")]
KINDS = ("train", "replay", "gradient_norm", "validation")
LOSS = st.one_of(st.floats(1e-3, 20.0), st.sampled_from([math.nan, math.inf, 0.0, 1e6]))


def make(name: str, num_tasks: int, **changes):
    tasks = TaskSet(tuple(f"task-{i}" for i in range(num_tasks)))
    section = {"type": name, **SECTIONS[name], **changes}
    if name == "given":
        section["weights"] = dict.fromkeys(tasks, 2.0)
    return build(TypeAdapter(schema.Weighting).validate_python(section), tasks)


def observed(weighting, history: np.ndarray, start: int = 0):
    """Show ``weighting`` a history [T, kinds, K] and return its weights after each step, all tasks being present."""
    found = []
    for step, moment in enumerate(history, start):
        for kind, row in zip(KINDS, moment, strict=True):
            weighting.observe(kind, step, TaskLosses(row, ~np.isnan(row)))
        found.append(weighting.weights(step + 1, np.ones(history.shape[2])))
    return np.array(found)


def walk(num_steps: int, num_tasks: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    falling = np.linspace(1, 0.6, num_steps)[:, None, None] * rng.uniform(1, 3, num_tasks)
    return falling * rng.uniform(0.9, 1.1, (num_steps, len(KINDS), num_tasks))


@st.composite
def histories(draw):
    num_tasks, num_steps = draw(st.integers(1, 5)), draw(st.integers(1, 15))
    size = num_steps * len(KINDS) * num_tasks
    values = draw(st.lists(LOSS, min_size=size, max_size=size))
    return np.array(values).reshape(num_steps, len(KINDS), num_tasks)


def test_every_weighting_is_under_these_laws():
    assert set(SECTIONS) == set(WEIGHTINGS)


@pytest.mark.parametrize("name", OBSERVING)
def test_what_is_observed_moves_the_weights_away_from_uniform_and_finite(name):
    weights = observed(make(name, 3), walk(30, 3))
    assert np.ptp(weights[-1]) > 1e-3


@pytest.mark.parametrize("name", SECTIONS)
@settings(max_examples=60)
@given(history=histories())
def test_no_history_gives_nan_or_weights_outside_the_simplex(name, history):
    weights = observed(make(name, history.shape[2]), history)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    if name != "uncertainty" or history.shape[2] == 1:
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("name", SECTIONS)
@settings(max_examples=30)
@given(history=histories())
def test_one_task_weighs_exactly_1(name, history):
    assert (observed(make(name, 1), history[:, :, :1]) == 1.0).all()


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_permuted_tasks_have_permuted_weights(name, seed):
    history = walk(25, 4, seed)
    history[np.random.default_rng(seed).random(history.shape) < 0.2] = np.nan
    order = np.random.default_rng(seed + 9).permutation(4)
    permuted = observed(make(name, 4), history[:, :, order])
    np.testing.assert_allclose(permuted, observed(make(name, 4), history)[:, order], rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "uncertainty"])
@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_identical_tasks_weigh_exactly_the_same(name, num_tasks):
    weights = observed(make(name, num_tasks), np.repeat(walk(20, 1), num_tasks, axis=2))
    np.testing.assert_array_equal(weights, 1 / num_tasks)


@pytest.mark.parametrize("name", OBSERVING)
def test_a_task_that_is_absent_weighs_0_and_leaves_the_others_their_proportions(name):
    weighting = make(name, 3)
    observed(weighting, walk(20, 3))
    all_present = weighting.weights(20, np.ones(3))
    without = weighting.weights(20, np.array([5.0, 0.0, 1.0]))
    assert without[1] == 0
    assert without[0] / without[2] == pytest.approx(all_present[0] / all_present[2], rel=1e-12)
    assert name == "uncertainty" or without.sum() == pytest.approx(1, rel=1e-12)
    assert weighting.weights(20, np.zeros(3)).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(weighting.weights(20, np.ones(3)), all_present)


@pytest.mark.parametrize("name", [name for name in OBSERVING if name != "coba"])  # whose window moves on with the steps
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_moment_in_which_no_task_has_a_usable_loss_changes_no_weight(name, bad):
    weighting = make(name, 3)
    before = observed(weighting, walk(20, 3))[-1]
    after = observed(weighting, np.full((1, len(KINDS), 3), bad), start=20)
    # DWA's windows end with the step, not with an observation.
    expected = weighting.weights(21, np.ones(3)) if name == "dwa" else before
    np.testing.assert_allclose(after, [expected], rtol=1e-12)


@pytest.mark.parametrize("name", OBSERVING)
def test_losses_that_are_not_finite_are_counted_and_those_of_absent_tasks_are_not_a_loss(name):
    weighting = make(name, 2)
    observed(weighting, walk(10, 2))
    moment = np.ones((1, len(KINDS), 2))
    moment[0, :, 1] = math.inf
    observed(weighting, moment, start=10)
    missing = weighting.diagnostics()["missing"]
    assert missing[0] == 0
    assert missing[1] == len(weighting.observes & set(KINDS))


@pytest.mark.parametrize("name", OBSERVING)
@pytest.mark.parametrize("cut", [0, 1, 9, 14])
def test_a_run_resumed_from_json_goes_on_bit_for_bit(name, cut):
    history = walk(30, 3)
    history[5:12, :, 1] = np.nan
    whole, resumed = make(name, 3), make(name, 3)
    observed(whole, history[:cut])
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    expected = observed(whole, history[cut:], start=cut)
    assert observed(resumed, history[cut:], start=cut).tobytes() == expected.tobytes()
    assert whole.state_dict() == resumed.state_dict()
    for key, values in whole.diagnostics().items():
        np.testing.assert_array_equal(values, resumed.diagnostics()[key])


@pytest.mark.parametrize("name", OBSERVING)
def test_a_state_between_two_observations_of_one_step_is_complete(name):
    history = walk(12, 3)
    whole, resumed = make(name, 3), make(name, 3)
    observed(whole, history[:10])
    whole.observe("train", 10, TaskLosses(history[10, 0], np.ones(3, bool)))
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for weighting in (whole, resumed):
        for kind, row in zip(KINDS[1:], history[10, 1:], strict=True):
            weighting.observe(kind, 10, TaskLosses(row, np.ones(3, bool)))
    assert whole.weights(11, np.ones(3)).tobytes() == resumed.weights(11, np.ones(3)).tobytes()


@pytest.mark.parametrize("name", OBSERVING)
def test_the_state_of_other_tasks_is_refused_and_both_lists_are_named(name):
    with pytest.raises(
        MftcoderError, match=r"2 tasks \(task-0, task-1\), but the run has 3 \(task-0, task-1, task-2\)"
    ):
        make(name, 3).load_state_dict(make(name, 2).state_dict())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("famo", {"minimum_losses": {"law": 1.0}}),
        ("multiplicative", {"prior": {"law": 1.0}}),
        ("multiplicative", {"target_losses": {"law": 1.0}}),
    ],
)
def test_settings_for_tasks_that_do_not_exist_are_refused(name, settings):
    with pytest.raises(MftcoderError, match=f"loss.weighting.{next(iter(settings))}: law are no tasks"):
        make(name, 2, **settings)
