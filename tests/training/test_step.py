"""The arithmetic of a step: global denominators, weights that are felt, skipped steps. Plain torch, float64."""

import numpy as np
import pytest
import torch
from tiny import random_rows, tiny_llama
from torch.nn.functional import cross_entropy

from mftcoder.config.schema import Given, Training
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.tasks import TaskSet
from mftcoder.training.step import evaluate, train_step

TASKS = TaskSet(("a", "b", "absent"))
WEIGHTS = {"a": 1.0, "b": 4.0, "absent": 2.0}
# Eight rows of two tasks; the tasks differ in length and in how much is supervised.
ROWS = [(0, row) for row in random_rows(1, [[9, 4], [12], [3, 3, 8], [15]])] + [
    (1, row) for row in random_rows(2, [[7, 9], [5], [16], [2, 6]], supervised_share=0.2)
]


def engine() -> LocalEngine:
    return LocalEngine(TokenNLL(tiny_llama().double(), CausalAdapter()), Training(max_grad_norm=0.0))


def run_step(trained: LocalEngine, batches: list, reduction: str = "token") -> tuple:
    """(result, gradient) of one step."""
    grads = []
    plain = trained.step

    def step(rate: float):
        grads.append(torch.cat([p.grad.flatten() for p in trained.model.parameters()]))
        return plain(rate)

    trained.step = step
    result = train_step(
        trained,
        batches,
        build(Given(type="given", weights=WEIGHTS), TASKS),
        step=0,
        learning_rate=1e-3,
        reduction=reduction,
        num_tasks=3,
        group=Group(),
    )
    trained.step = plain
    return result, grads[0]


def cut(sizes: list[int]) -> list:
    ends = np.cumsum(sizes)
    order = [ROWS[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    return [collate(order[e - n : e], isolate_samples=True) for n, e in zip(sizes, ends, strict=True)]


def formula(reduction: str) -> torch.Tensor:
    """Σ a_i ℓ_i straight from the definition, one sample at a time, over whole logits."""
    model = tiny_llama().double()
    losses = []
    for task in (0, 1):
        samples = []
        for _, row in (pair for pair in ROWS if pair[0] == task):
            ends = np.cumsum(row.segment_lengths)
            for start, end in zip(ends - row.segment_lengths, ends, strict=True):
                ids = torch.tensor(row.input_ids[start:end].astype(np.int64))
                logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
                on = torch.tensor(row.supervised[start:end][1:])
                samples.append(cross_entropy(logits[on], ids[1:][on], reduction="none"))
        if reduction == "token":
            losses.append(torch.cat(samples).mean())
        else:
            losses.append(torch.stack([sample.mean() for sample in samples if len(sample)]).mean())
    loss = (1.0 * losses[0] + 4.0 * losses[1]) / 5.0
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("reduction", ["token", "sample"])
@pytest.mark.parametrize("cuts", [[8], [4, 4], [1] * 8, [5, 2, 1]])
def test_any_cut_of_a_step_gives_the_loss_and_gradient_of_the_formula(cuts, reduction):
    result, gradient = run_step(engine(), cut(cuts), reduction)
    loss, expected = formula(reduction)
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)  # coefficients are float32
    assert (gradient - expected).norm() / expected.norm() < 1e-6
    result_of_one_cut, gradient_of_one_cut = run_step(engine(), cut([8]), reduction)
    assert result.loss == pytest.approx(result_of_one_cut.loss, rel=1e-12)
    assert (gradient - gradient_of_one_cut).norm() / gradient_of_one_cut.norm() < 1e-12


def test_one_task_micro_batch_still_feels_its_weight():
    """The predecessor divides by the weights of the micro-batch alone, so that at size 1 they cancel."""
    _, gradient = run_step(engine(), [collate([row], isolate_samples=True) for row in ROWS])
    parts = []
    for task in (0, 1):
        alone = [collate([row], isolate_samples=True) for row in ROWS if row[0] == task]
        parts.append(run_step(engine(), alone)[1])  # a task alone in a step has weight 1
    expected = (1.0 * parts[0] + 4.0 * parts[1]) / 5.0
    assert (gradient - expected).norm() / expected.norm() < 1e-6


def test_an_absent_task_gets_no_weight_and_the_present_share_it():
    result, _ = run_step(engine(), cut([8]))
    np.testing.assert_allclose(result.weights, [0.2, 0.8, 0.0])
    assert result.losses.present.tolist() == [True, True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_whose_loss_is_not_finite_changes_nothing(bad):
    trained, undisturbed = engine(), engine()
    head = trained.model.head.weight
    good = head[5, 0].item()
    with torch.no_grad():
        head[5, 0] = bad
    result, _ = run_step(trained, cut([8]))
    with torch.no_grad():
        head[5, 0] = good
    assert result.info.skipped
    assert np.isnan(result.loss)
    for _ in range(2):
        assert run_step(trained, cut([8]))[0].loss == run_step(undisturbed, cut([8]))[0].loss
    assert all(
        torch.equal(a, b) for a, b in zip(trained.model.parameters(), undisturbed.model.parameters(), strict=True)
    )


def test_evaluation_is_the_mean_per_task_and_leaves_dropout_on_for_training():
    trained = engine()
    losses = evaluate(trained, cut([5, 3]), reduction="token", num_tasks=3, group=Group())
    loss, _ = formula("token")
    assert (losses.values[0] + 4 * losses.values[1]) / 5 == pytest.approx(loss.item(), rel=1e-10)
    assert np.isnan(losses.values[2])
    assert trained.model.training
