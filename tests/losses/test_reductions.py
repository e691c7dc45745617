"""Focal terms and slopes against autograd; what a reduction keeps. Whole steps are in training/test_step."""

import json

import numpy as np
import pytest
import torch

from mftcoder.config.schema import FocalSampleReduction, FocalTaskReduction
from mftcoder.errors import MftcoderError
from mftcoder.losses.focal import focal_slopes, focal_terms, sample_means
from mftcoder.losses.reductions import FocalTask, build_reduction
from mftcoder.tasks import TaskSet


def test_focal_terms_and_slopes_are_the_loss_of_the_paper_and_its_derivatives():
    p = torch.tensor([0.0, 0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([-3.0, -2.5, -0.8, -0.1], dtype=torch.float64, requires_grad=True)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        terms = focal_terms(p, q, gamma)
        assert terms.tolist() == pytest.approx(
            [-((1 - a) ** gamma) * b for a, b in zip(p.tolist(), q.tolist(), strict=True)]
        )
        by_p, by_q = torch.autograd.grad(terms.sum(), (p, q))
        c1, c2 = focal_slopes(p.detach(), q.detach(), gamma)
        torch.testing.assert_close(-c1, by_q, rtol=1e-12, atol=0)
        torch.testing.assert_close(c2, by_p, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_sample_that_is_certain_has_a_finite_gradient(gamma):
    nll = torch.zeros(4, requires_grad=True)  # P = 1 in float32
    means = [sample_means(values, torch.tensor([0, 0, 1, 1]), 2) for values in (torch.exp(-nll), -nll)]
    focal_terms(*means, gamma).sum().backward()
    assert torch.isfinite(nll.grad).all()
    assert all(torch.isfinite(c).all() for c in focal_slopes(*(m.detach() for m in means), gamma))


def test_sample_means_are_0_for_a_sample_without_a_token():
    means = sample_means(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0, 0, 2]), 4)
    assert means.tolist() == [1.5, 0.0, 9.0, 0.0]


def test_focal_task_takes_its_coefficients_from_the_last_step_that_had_the_task():
    reduction = FocalTask(2.0, np.array([1.0, 3.0]))
    np.testing.assert_array_equal(reduction.sum_weights, [[1, 3], [0, 0]])
    # Over four samples -ΣQ = 8 and ΣP = 2; the second task is absent.
    sums, units = np.array([[8.0, 0.0], [2.0, 0.0]]), np.array([4.0, 0.0])
    np.testing.assert_allclose(reduction.totals(sums, units), [4 * 0.5**2 * 2, 0])
    reduction.observe(sums, units)
    np.testing.assert_allclose(reduction.sum_weights, [[0.25, 3], [2 * 0.5 * -2, 0]])
    reduction.observe(sums[:, ::-1], units[::-1])
    np.testing.assert_allclose(reduction.sum_weights, [[0.25, 0.75], [-2, -6]])

    resumed = FocalTask(2.0, np.array([1.0, 3.0]))
    resumed.load_state_dict(json.loads(json.dumps(reduction.state_dict())))
    assert resumed.sum_weights.tobytes() == reduction.sum_weights.tobytes()


@pytest.mark.parametrize("section", [FocalSampleReduction, FocalTaskReduction])
def test_a_factor_for_a_task_that_does_not_exist_is_refused(section):
    name = "focal_sample" if section is FocalSampleReduction else "focal_task"
    with pytest.raises(MftcoderError, match=r"loss.reduction.alpha: law are no tasks; the tasks are code, math\."):
        build_reduction(section(type=name, alpha={"law": 1.0}), TaskSet(("code", "math")))
