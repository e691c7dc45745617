"""FAMO against vectors from an independent NumPy implementation, torch's Adam, and autograd.

``famo_cases.json``: ``losses`` [T+1][K] of each trajectory; per case the coefficients ``a`` before and the softmax
``z`` after update t, for the t in ``rows``.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mftcoder.losses import simulate
from mftcoder.losses.weighting.base import TaskLosses
from mftcoder.losses.weighting.famo import Famo, FamoValid, adam, logit_gradient
from mftcoder.tasks import TaskSet

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "famo_cases.json").read_text())
SETTINGS = {"learning_rate": 0.025, "decay": 1e-3, "minimum_losses": {}}
NAN = float("nan")


def losses(*values: float) -> TaskLosses:
    return TaskLosses(np.array(values), ~np.isnan(values))


def famo(num_tasks: int, kind=Famo, **changes):
    return kind(TaskSet(tuple("abcdef"[:num_tasks])), **{**SETTINGS, **changes})


@pytest.mark.parametrize("name", list(VECTORS["cases"]))
def test_famo_agrees_with_the_vectors(name):
    case, rows = VECTORS["cases"][name], np.array(VECTORS["rows"])
    found = simulate(
        {"type": "famo", "learning_rate": case["lr"], "decay": case["gamma"]}, VECTORS["losses"][name.split("/")[0]]
    )
    np.testing.assert_allclose(found["coefficients"][rows], case["a"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["weights"][rows + 1], case["z"], rtol=0, atol=1e-10)
    if name.startswith(("k1/", "k2_identical/")):
        np.testing.assert_array_equal(found["coefficients"], 1 / found["weights"].shape[1])
        np.testing.assert_array_equal(found["weights"], 1 / found["weights"].shape[1])


def test_adam_is_that_of_torch_and_a_task_that_takes_no_step_keeps_its_moments():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(50, 4)) * 10.0 ** rng.integers(-6, 2, 4)
    gradients[rng.random((50, 4)) < 0.3] = NAN
    values, moments = np.zeros(4), np.zeros((3, 4))
    for gradient in gradients:
        moments, direction = adam(moments, gradient)
        values = values - 0.025 * direction
    for task in range(4):  # each task on its own, over the steps that it takes
        parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([parameter], lr=0.025)
        for gradient in gradients[np.isfinite(gradients[:, task]), task]:
            parameter.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
        assert values[task] == pytest.approx(parameter.item(), rel=1e-10)


def test_the_logits_go_with_the_gradient_that_autograd_finds_through_the_softmax():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=5)
    before, after = rng.uniform(0.5, 3, (2, 5))
    leaf = torch.tensor(logits, requires_grad=True)
    (torch.softmax(leaf, 0) @ torch.tensor(np.log(before / after))).backward()
    np.testing.assert_allclose(logit_gradient(logits, before, after), leaf.grad.numpy(), rtol=1e-12)


def test_updates_are_those_of_adam_with_coupled_decay_on_xi():
    """The authors' loop: the gradient of Σ softmax(ξ)·(log before - log after) through torch.optim.Adam."""
    rows = np.abs(np.cumsum(np.random.default_rng(2).normal(0, 0.05, (40, 2, 3)), axis=0)) + 0.5
    weighting = famo(3, decay=0.01)
    xi = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([xi], lr=0.025, weight_decay=0.01)
    for step, (before, after) in enumerate(rows):
        weighting.observe("train", step, losses(*before))
        weighting.observe("replay", step, losses(*after))
        optimizer.zero_grad()
        progress = torch.tensor(np.log(before + 1e-8) - np.log(after + 1e-8))
        (torch.softmax(xi, 0) @ progress).backward()
        optimizer.step()
        np.testing.assert_allclose(weighting.logits, xi.detach().numpy(), rtol=1e-9)
        z = torch.softmax(xi, 0).detach().numpy() / (after + 1e-8)  # the last losses seen are those after the step
        np.testing.assert_allclose(weighting.weights(step + 1, np.ones(3)), z / z.sum(), rtol=1e-9)


def test_the_first_step_has_the_weights_z_and_an_unseen_task_keeps_its_z():
    weighting = famo(3)
    np.testing.assert_array_equal(weighting.weights(0, np.ones(3)), [1 / 3] * 3)
    weighting.observe("train", 0, losses(1.0, 3.0, NAN))
    np.testing.assert_allclose(weighting.weights(1, np.ones(3)), [2 / 3 * 3 / 4, 2 / 3 * 1 / 4, 1 / 3], rtol=1e-7)


def test_a_step_without_a_task_is_one_of_the_others_alone():
    with_absent, alone = famo(3), famo(2)
    rows = np.random.default_rng(3).uniform(0.5, 3, (20, 2, 2))
    for step, (before, after) in enumerate(rows):
        for weighting, absent in ((with_absent, (NAN,)), (alone, ())):
            weighting.observe("train", step, losses(*before, *absent))
            weighting.observe("replay", step, losses(*after, *absent))
    np.testing.assert_allclose(with_absent.logits[:2], alone.logits, rtol=1e-12)
    assert with_absent.logits[2] == 0
    assert not with_absent.moments[:, 2].any()


def test_a_replay_counts_once_and_only_with_the_training_losses_of_its_own_step():
    weighting = famo(2)
    weighting.observe("train", 0, losses(2.0, 2.0))
    weighting.observe("replay", 0, losses(1.0, 1.9))
    moved = weighting.logits
    weighting.observe("replay", 1, losses(0.5, 1.9))
    np.testing.assert_array_equal(weighting.logits, moved)


def test_losses_count_from_their_minimum_and_one_below_it_is_missing():
    plain, shifted = famo(2), famo(2, minimum_losses={"b": 1.5})
    for step, (before, after) in enumerate([((2.0, 3.0), (1.9, 2.8)), ((1.8, 2.7), (1.7, 2.6))]):
        for kind, row in (("train", before), ("replay", after)):
            plain.observe(kind, step, losses(row[0], row[1] - 1.5))
            shifted.observe(kind, step, losses(*row))
    np.testing.assert_allclose(shifted.logits, plain.logits, rtol=1e-9)
    before = shifted.logits
    shifted.observe("train", 2, losses(1.0, 1.4))
    shifted.observe("replay", 2, losses(0.9, 1.3))
    assert shifted.logits[1] == before[1]


def test_famo_valid_weighs_by_z_and_moves_by_what_the_probe_did_between_two_looks():
    valid, paired = famo(3, FamoValid), famo(3)
    rows = np.random.default_rng(4).uniform(0.5, 3, (15, 3))
    for step, row in enumerate(rows):
        valid.observe("validation", 10 * step, losses(*row))
        paired.observe("replay", step, losses(*row))
        paired.observe("train", step, losses(*row))
    np.testing.assert_allclose(valid.logits, paired.logits, rtol=1e-12)
    z = np.exp(valid.logits) / np.exp(valid.logits).sum()
    np.testing.assert_allclose(valid.weights(150, np.ones(3)), z, rtol=1e-12)


def test_famo_valid_compares_a_task_with_its_last_usable_loss():
    interrupted, spared = famo(2, FamoValid), famo(2, FamoValid)
    for weighting, rows in (
        (interrupted, [(2.0, 2.0), (float("inf"), NAN), (1.5, 1.9)]),
        (spared, [(2.0, 2.0), (1.5, 1.9)]),
    ):
        for step, row in enumerate(rows):
            weighting.observe("validation", step, losses(*row))
    np.testing.assert_array_equal(interrupted.logits, spared.logits)
    np.testing.assert_array_equal(interrupted.missing, [1, 0])
