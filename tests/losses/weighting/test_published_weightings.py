"""LBTW, DWA, uncertainty, GradNorm and multiplicative weights against hand-computed values and autograd."""

import numpy as np
import pytest
import torch

from mftcoder.losses import simulate
from mftcoder.losses.weighting.base import TaskLosses
from mftcoder.losses.weighting.dwa import Dwa
from mftcoder.losses.weighting.gradnorm import GradNorm, GradNormValid, descend
from mftcoder.losses.weighting.lbtw import Lbtw, LbtwValid
from mftcoder.losses.weighting.multiplicative import Multiplicative
from mftcoder.losses.weighting.uncertainty import Uncertainty, gradient
from mftcoder.tasks import TaskSet

NAN = float("nan")
TWO, THREE = TaskSet(("a", "b")), TaskSet(("a", "b", "c"))


def losses(*values: float) -> TaskLosses:
    return TaskLosses(np.array(values), ~np.isnan(values))


def observe(weighting, kind: str, *rows, start: int = 0):
    for step, row in enumerate(rows, start):
        weighting.observe(kind, step, losses(*row))
    return weighting


# LBTW


@pytest.mark.parametrize(("method", "kind"), [(Lbtw, "train"), (LbtwValid, "validation")])
def test_lbtw_weighs_by_the_root_of_what_is_left_of_the_first_loss(method, kind):
    weighting = observe(method(TWO, exponent=0.5), kind, (4.0, 2.0), (9.0, 9.0), (1.0, 0.08))
    # ratios 1/4 and 1/25, their roots 1/2 and 1/5
    np.testing.assert_allclose(weighting.weights(3, np.ones(2)), [5 / 7, 2 / 7], rtol=1e-14)


def test_lbtw_with_a_baseline_takes_it_for_the_first_loss():
    weighting = LbtwValid(TWO, exponent=1.0)
    weighting.observe("baseline", 0, losses(4.0, 4.0))
    observe(weighting, "validation", (3.0, 1.0))
    np.testing.assert_allclose(weighting.weights(1, np.ones(2)), [0.75, 0.25])
    found = simulate({"type": "lbtw_valid", "exponent": 1.0}, [[3.0, 1.0]], step0_losses=[4.0, 4.0])
    np.testing.assert_allclose(found["weights"], [[0.75, 0.25]])


def test_a_baseline_is_no_observation():
    weighting = LbtwValid(TWO, exponent=1.0)
    weighting.observe("baseline", 0, losses(4.0, 4.0))
    observe(weighting, "validation", (1.0, NAN))
    np.testing.assert_array_equal(weighting.weights(1, np.ones(2)), [0.5, 0.5])  # the second has no ratio yet


def test_lbtw_keeps_the_ratio_of_an_absent_task_and_1_over_k_for_one_never_seen():
    weighting = observe(Lbtw(THREE, exponent=1.0), "train", (4.0, 2.0, NAN), (1.0, NAN, NAN))
    np.testing.assert_allclose(weighting.weights(2, np.ones(3)), [2 / 3 / 5, 2 / 3 * 4 / 5, 1 / 3])


def test_lbtw_without_any_loss_left_is_uniform():
    weighting = observe(Lbtw(TWO, exponent=0.5), "train", (4.0, 2.0), (0.0, 0.0))
    np.testing.assert_array_equal(weighting.weights(2, np.ones(2)), [0.5, 0.5])


# DWA


def test_dwa_compares_the_mean_losses_of_the_last_two_windows():
    weighting = Dwa(TWO, temperature=2.0, window_steps=2)
    rows = [(4.0, 1.0), (2.0, 3.0), (2.0, 1.0), (1.0, 1.0), (7.0, 7.0)]
    expected = np.exp(np.array([1.5 / 3.0, 1.0 / 2.0]) / 2)  # means 3, 2 and then 1.5, 1
    for step, row in enumerate(rows):
        weights = weighting.weights(step, np.ones(2))
        np.testing.assert_allclose(weights, [0.5, 0.5] if step < 4 else expected / expected.sum(), rtol=1e-14)
        weighting.observe("train", step, losses(*row))
    # within the third window nothing changes; the fourth compares 7 and 9 with 1.5 and 1
    np.testing.assert_allclose(weighting.weights(5, np.ones(2)), expected / expected.sum(), rtol=1e-14)
    weighting.observe("train", 5, losses(7.0, 11.0))
    expected = np.exp(np.array([7 / 1.5, 9 / 1.0]) / 2)
    np.testing.assert_allclose(weighting.weights(6, np.ones(2)), expected / expected.sum(), rtol=1e-14)


def test_dwa_after_a_window_without_loss_is_neutral_and_skips_windows_without_the_task():
    weighting = Dwa(THREE, temperature=1.0, window_steps=1)
    observe(weighting, "train", (0.0, 4.0, NAN), (5.0, NAN, 2.0), (5.0, 2.0, 2.0))
    expected = np.exp([1.0, 0.5, 1.0])  # 5/5; 2/4 over the gap; 2/2
    np.testing.assert_allclose(weighting.weights(3, np.ones(3)), expected / expected.sum(), rtol=1e-14)
    zero = observe(Dwa(TWO, temperature=1.0, window_steps=1), "train", (0.0, 4.0), (5.0, 4.0))
    np.testing.assert_array_equal(zero.weights(2, np.ones(2)), [0.5, 0.5])


def test_dwa_ends_a_window_whose_last_step_was_skipped():
    weighting = observe(Dwa(TWO, temperature=1.0, window_steps=10), "train", (4.0, 4.0))
    observe(weighting, "train", (4.0, 2.0), start=10)
    expected = np.exp([1.0, 0.5])
    np.testing.assert_allclose(weighting.weights(25, np.ones(2)), expected / expected.sum(), rtol=1e-14)


# Uncertainty


def test_uncertainty_s_gradient_is_that_of_autograd():
    rng = np.random.default_rng(0)
    s, values = rng.normal(size=5), rng.uniform(0.1, 4, 5)
    leaf = torch.tensor(s, requires_grad=True)
    (torch.tensor(values) / (2 * torch.exp(leaf)) + leaf / 2).sum().backward()
    np.testing.assert_allclose(gradient(s, values), leaf.grad.numpy(), rtol=1e-12)


def test_uncertainty_comes_to_rest_where_the_variance_is_the_loss():
    weighting = observe(Uncertainty(TWO, learning_rate=0.1), "train", *[(0.5, 3.0)] * 2000)
    np.testing.assert_allclose(weighting.weights(2000, np.ones(2)), [1 / (2 * 0.5), 1 / (2 * 3.0)], rtol=1e-10)


def test_uncertainty_s_weights_are_not_renormalised_over_the_tasks_present():
    weighting = observe(Uncertainty(TWO, learning_rate=0.1), "train", (0.5, 3.0), (NAN, 1.0))
    expected = 0.1 * (0.5 * 0.5 - 0.5)  # s of the first task after its one step, ∂/∂s at s = 0 being 1/2 - l/2
    assert weighting.weights(2, np.array([1.0, 0.0]))[0] == pytest.approx(0.5 * np.exp(-expected), rel=1e-12)


def test_uncertainty_survives_a_loss_that_vanishes_and_returns():
    weighting = observe(Uncertainty(TWO, learning_rate=1.0), "train", *[(0.0, 1.0)] * 5000)
    assert weighting.log_variances[0] == pytest.approx(np.log(1e-8), abs=0.6)
    observe(weighting, "train", *[(2.0, 1.0)] * 60)
    np.testing.assert_allclose(weighting.weights(0, np.ones(2)), [0.25, 0.5], rtol=1e-6)


# GradNorm


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_takes_the_step_of_autograd_through_its_objective(alpha):
    rng = np.random.default_rng(1)
    omegas, norms, ratios = rng.uniform(0.5, 1.5, (3, 4))
    leaf = torch.tensor(omegas, requires_grad=True)
    gradients = leaf * torch.tensor(norms)
    pace = torch.tensor(ratios / ratios.mean())
    (gradients - (gradients.mean() * pace**alpha).detach()).abs().sum().backward()
    moved = torch.clamp(leaf.detach() - 0.025 * leaf.grad, min=1e-3)
    expected = moved * omegas.sum() / moved.sum()
    np.testing.assert_allclose(descend(omegas, norms, ratios, alpha, 0.025), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("method", "kind"), [(GradNorm, "train"), (GradNormValid, "validation")])
def test_gradnorm_gives_the_slower_of_two_equal_gradients_more(method, kind):
    weighting = method(TWO, alpha=1.5, learning_rate=0.025)
    observe(weighting, kind, (2.0, 2.0), (1.9, 1.0))
    for step in range(200):
        weighting.observe("gradient_norm", step, losses(1.0, 1.0))
    weights = weighting.weights(2, np.ones(2))
    # At rest ω_i = Ḡ r_i^α with equal norms: in the proportions of (.95, .5)^1.5.
    expected = np.array([0.95, 0.5]) ** 1.5
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=0.03)


def test_gradnorm_leaves_an_absent_task_its_weight_and_a_weight_off_zero():
    weighting = GradNorm(THREE, alpha=1.5, learning_rate=10.0)
    weighting.observe("train", 0, losses(2.0, 2.0, 2.0))
    weighting.observe("gradient_norm", 0, losses(5.0, 1.0, NAN))
    np.testing.assert_allclose(weighting.omegas.sum(), 3, rtol=1e-12)
    assert weighting.omegas[2] == 1
    assert weighting.omegas[0] > 1e-5


# Multiplicative


def multiplicative(tasks: TaskSet, **changes) -> Multiplicative:
    return Multiplicative(tasks, **{"learning_rate": 0.5, "prior": {}, "target_losses": {}, "floor": 0.0, **changes})


def test_multiplicative_weights_are_the_prior_times_exp_of_the_summed_velocities():
    weighting = multiplicative(TWO, prior={"a": 3.0}, target_losses={"b": 1.0})
    observe(weighting, "validation", (4.0, 3.0), (2.0, 2.0), (1.0, 0.5))
    # v of a: 1, 1/2, 1/4; of b, on its way from 3 to 1: 1, 1/2, and 0 beyond the target
    expected = np.array([3.0, 1.0]) * np.exp(0.5 * np.array([1.75, 1.5]))
    np.testing.assert_allclose(weighting.weights(3, np.ones(2)), expected / expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(weighting.velocities, [0.25, 0.0])


def test_multiplicative_floor_prior_and_missing_losses():
    weighting = multiplicative(THREE, learning_rate=50.0, floor=0.1, prior={"c": 2.0})
    np.testing.assert_allclose(weighting.weights(0, np.ones(3)), 0.7 * np.array([0.25, 0.25, 0.5]) + 0.1)
    observe(weighting, "validation", (4.0, 4.0, NAN), (4.0, 1.0, NAN))
    # c was never seen and keeps its half; a takes all of the other half, but for the floor
    np.testing.assert_allclose(weighting.weights(2, np.ones(3)), 0.7 * np.array([0.5, 0, 0.5]) + 0.1, atol=1e-10)


def test_multiplicative_weights_do_not_move_a_task_whose_loss_is_missing_at_a_look():
    weighting = multiplicative(THREE)
    observe(weighting, "validation", (4.0, 4.0, 4.0), (2.0, 2.0, NAN))
    np.testing.assert_allclose(weighting.weights(2, np.ones(3)), [1 / 3] * 3, rtol=1e-12)


def test_a_task_that_starts_at_its_target_has_nothing_left_to_learn():
    weighting = multiplicative(TWO, target_losses={"a": 5.0}, learning_rate=1.0)
    observe(weighting, "validation", (4.0, 4.0))
    np.testing.assert_allclose(weighting.weights(1, np.ones(2)), np.exp([0, 1]) / np.exp([0, 1]).sum())
