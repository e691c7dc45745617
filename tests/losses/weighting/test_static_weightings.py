import numpy as np
import pytest

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.losses.weighting.base import over_present
from mftcoder.tasks import TaskSet

TASKS = TaskSet(("code", "math", "chat"))
SECTIONS = {
    "uniform": schema.Uniform(),
    "proportional": schema.Proportional(type="proportional"),
    "coba": schema.CoBa(type="coba"),
}


def given(**weights: float) -> schema.Given:
    return schema.Given(type="given", weights=weights)


def test_uniform_does_not_see_how_much_data_a_task_has():
    np.testing.assert_array_equal(
        build(SECTIONS["uniform"], TASKS).weights(3, np.array([1.0, 900.0, 7.0])), [1 / 3] * 3
    )


def test_proportional_counts_every_unit_of_the_step_the_same():
    weights = build(SECTIONS["proportional"], TASKS).weights(3, np.array([6.0, 0.0, 2.0]))
    np.testing.assert_array_equal(weights, [0.75, 0.0, 0.25])


def test_given_weights_are_matched_by_name_and_normalised():
    weights = build(given(chat=1.0, code=3.0, math=4.0), TASKS).weights(0, np.ones(3))
    np.testing.assert_array_equal(weights, [0.375, 0.5, 0.125])


def test_given_weights_are_renormalised_over_the_tasks_present():
    weights = build(given(code=3.0, math=4.0, chat=1.0), TASKS).weights(0, np.array([5.0, 0.0, 1.0]))
    np.testing.assert_array_equal(weights, [0.75, 0.0, 0.25])


def test_a_task_given_weight_0_is_not_trained_even_when_alone_in_a_step():
    weights = build(given(code=1.0, math=1.0, chat=0.0), TASKS).weights(0, np.array([0.0, 0.0, 8.0]))
    np.testing.assert_array_equal(weights, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("name", ["uniform", "proportional", "coba"])
def test_absent_tasks_weigh_0_and_the_others_share_1(name):
    weights = build(SECTIONS[name], TASKS).weights(0, np.array([4.0, 4.0, 0.0]))
    np.testing.assert_array_equal(weights, [0.5, 0.5, 0.0])


def test_present_tasks_whose_weights_all_underflowed_share_equally():
    np.testing.assert_array_equal(over_present(np.array([1.0, 0.0, 0.0]), np.array([0.0, 2.0, 9.0])), [0, 0.5, 0.5])


@pytest.mark.parametrize("num_tasks", [3, 10, 49])
def test_uniform_weights_are_exactly_1_over_k(num_tasks):
    tasks = TaskSet(tuple(f"task-{i}" for i in range(num_tasks)))
    assert build(schema.Uniform(), tasks).weights(0, np.ones(num_tasks)).tolist() == [1 / num_tasks] * num_tasks


def test_weights_handed_out_do_not_alias_the_state():
    weighting = build(SECTIONS["uniform"], TASKS)
    weighting.weights(0, np.ones(3))[:] = 0.0
    assert weighting.weights(1, np.ones(3)).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"code": 1.0, "math": 1.0}, "found code, math. The tasks are code, math, chat."),
        ({"code": 1.0, "math": 1.0, "chat": 1.0, "law": 1.0}, "found code, math, chat, law"),
        ({"code": 0.0, "math": 0.0, "chat": 0.0}, "found 0 for every task"),
    ],
)
def test_given_weights_that_do_not_fit_the_tasks_are_refused(weights, complaint):
    with pytest.raises(MftcoderError, match=complaint):
        build(given(**weights), TASKS)


def test_a_loss_of_0_is_present_and_a_task_without_units_is_absent():
    losses = TaskLosses.of(np.array([0.0, 3.0, 0.0]), np.array([5.0, 2.0, 0.0]))
    np.testing.assert_array_equal(losses.present, [True, True, False])
    np.testing.assert_array_equal(losses.values, [0.0, 1.5, np.nan])
