"""The arithmetic of a step: global denominators, weights that are felt, skipped steps. Plain torch, float64."""

import traceback

import numpy as np
import pytest
import torch
from tiny import random_rows, tiny_llama
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from mftcoder.config.schema import (
    FocalSampleReduction,
    FocalTaskReduction,
    Given,
    SampleReduction,
    TokenReduction,
    Training,
    Uniform,
)
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.engine.protocol import StepInfo
from mftcoder.losses.reductions import Reduction, build_reduction
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.tasks import TaskSet
from mftcoder.training.step import evaluate, measure, train_step

TASKS = TaskSet(("a", "b", "absent"))
# Eight rows of two tasks; the tasks differ in length and in how much is supervised. The segments of one token are
# samples without a supervised one.
ROWS = [(0, row) for row in random_rows(1, [[9, 4], [12], [3, 3, 8], [15]])] + [
    (1, row) for row in random_rows(2, [[7, 1, 9], [5], [16], [2, 6]], supervised_share=0.2)
]
ALPHA, GAMMA = {"a": 0.5, "b": 2.0}, 1.5
REDUCTIONS = {
    "token": TokenReduction(),
    "sample": SampleReduction(type="sample"),
    "focal_sample": FocalSampleReduction(type="focal_sample", gamma=GAMMA, alpha=ALPHA),
    "focal_task": FocalTaskReduction(type="focal_task", gamma=GAMMA, alpha=ALPHA),
}
# section -> the weights of tasks a and b
WEIGHTINGS = {
    "given": (Given(type="given", weights={"a": 1.0, "b": 4.0, "absent": 2.0}), (0.2, 0.8)),
    "uniform": (Uniform(), (0.5, 0.5)),
}


def engine() -> LocalEngine:
    return LocalEngine(TokenNLL(tiny_llama().double(), CausalAdapter()), Training(max_grad_norm=0.0))


def reduction_of(name: str) -> Reduction:
    return build_reduction(REDUCTIONS[name], TASKS)


def run_step(
    trained: LocalEngine,
    batches: list,
    reduction: Reduction | None = None,
    weighting: str = "given",
    rate: float = 1e-3,
    **options,
) -> tuple:
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
        build(WEIGHTINGS[weighting][0], TASKS),
        step=0,
        learning_rate=rate,
        reduction=reduction or reduction_of("token"),
        num_tasks=3,
        group=Group(),
        **options,
    )
    trained.step = plain
    return result, grads[0]


def cut(sizes: list[int]) -> list:
    ends = np.cumsum(sizes)
    order = [ROWS[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    return [collate(order[e - n : e], isolate_samples=True) for n, e in zip(sizes, ends, strict=True)]


def samples_of(model, task: int) -> list[torch.Tensor]:
    """The NLL of each sample's supervised tokens, one sample at a time, over whole logits."""
    samples = []
    for _, row in (pair for pair in ROWS if pair[0] == task):
        ends = np.cumsum(row.segment_lengths)
        for start, end in zip(ends - row.segment_lengths, ends, strict=True):
            ids = torch.tensor(row.input_ids[start:end].astype(np.int64))
            on = torch.tensor(row.supervised[start:end][1:])
            if on.any():
                logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
                samples.append(cross_entropy(logits[on], ids[1:][on], reduction="none"))
    return samples


def task_loss(samples: list[torch.Tensor], reduction: str, alpha: float = 1.0) -> torch.Tensor:
    """A task's loss straight from its definition."""
    if reduction == "token":
        return torch.cat(samples).mean()
    p = torch.stack([torch.exp(-nll).mean() for nll in samples])
    q = torch.stack([(-nll).mean() for nll in samples])
    if reduction == "sample":
        return -q.mean()
    if reduction == "focal_sample":
        return (-alpha * (1 - p) ** GAMMA * q).mean()
    return -alpha * (1 - p.mean()) ** GAMMA * q.mean()


def formula(reduction: str, weights: tuple[float, float] = (0.2, 0.8)) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient) of Σ a_i l_i by autograd."""
    model = tiny_llama().double()
    loss = sum(
        weight * task_loss(samples_of(model, task), reduction, ALPHA["ab"[task]]) for task, weight in enumerate(weights)
    )
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def difference(gradient: torch.Tensor, expected: torch.Tensor) -> float:
    return ((gradient - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", ["token", "sample", "focal_sample"])
@pytest.mark.parametrize("cuts", [[8], [1] * 8, [5, 0, 2, 1]])
def test_any_cut_of_a_step_gives_the_loss_and_gradient_of_the_formula(cuts, name, weighting):
    result, gradient = run_step(engine(), cut(cuts), reduction_of(name), weighting)
    loss, expected = formula(name, WEIGHTINGS[weighting][1])
    assert result.loss == pytest.approx(loss.item(), rel=1e-12)
    assert difference(gradient, expected) < 1e-12


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("cuts", [[8], [1] * 8, [5, 0, 2, 1]])
def test_focal_task_starts_with_the_plain_loss_and_then_lags_by_one_step(cuts, weighting):
    """At learning rate 0 the second step's coefficients are its own, so its gradient is that of Eq. 3 itself."""
    trained, reduction = engine(), reduction_of("focal_task")
    result, gradient = run_step(trained, cut(cuts), reduction, weighting, rate=0.0)
    weights = WEIGHTINGS[weighting][1]
    assert result.loss == pytest.approx(formula("focal_task", weights)[0].item(), rel=1e-12)
    plain = formula("sample", tuple(a * alpha for a, alpha in zip(weights, ALPHA.values(), strict=True)))
    assert difference(gradient, plain[1]) < 1e-12

    result, gradient = run_step(trained, cut(cuts), reduction, weighting, rate=0.0)
    loss, expected = formula("focal_task", weights)
    assert result.loss == pytest.approx(loss.item(), rel=1e-12)
    assert difference(gradient, expected) < 1e-12


class Waits(TorchDispatchMode):
    """Counts our operations for which a host would wait for an accelerator.

    Not those on batches that still lie on the host, nor the one with which transformers makes an attention mask.
    """

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        boolean_index = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        if boolean_index or any(name.startswith(waits) for waits in self.NAMES):
            frames = [
                f for f in traceback.extract_stack() if "/mftcoder/" in f.filename or "/transformers/" in f.filename
            ]
            on_host = any(f.name in ("_num_tokens", "_num_pairs", "_count_rows") for f in frames)
            self.count += "/mftcoder/" in frames[-1].filename and not on_host
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_no_micro_batch_makes_the_host_wait_for_an_accelerator(name):
    counts = []
    for sizes in ([8], [2, 2, 2, 2], [1] * 8):
        trained, batches = engine(), cut(sizes)
        with Waits() as waits:
            run_step(trained, batches, reduction_of(name))
        counts.append(waits.count)
    assert counts[0] > 0, "nothing was counted; the test shows nothing"
    assert len(set(counts)) == 1


@pytest.mark.parametrize("focal", [FocalSampleReduction, FocalTaskReduction])
def test_gamma_0_is_the_plain_loss_to_the_last_bit(focal):
    reduction = build_reduction(focal(type=focal.model_fields["type"].annotation.__args__[0], gamma=0.0), TASKS)
    trained, plain = engine(), engine()
    for _ in range(2):
        result, gradient = run_step(trained, cut([5, 3]), reduction)
        expected, expected_gradient = run_step(plain, cut([5, 3]), reduction_of("sample"))
        assert torch.equal(gradient, expected_gradient)
        assert result.loss == pytest.approx(expected.loss, rel=1e-14)


def test_one_task_micro_batch_still_feels_its_weight():
    """The predecessor divides by the weights of the micro-batch alone, so that at size 1 they cancel."""
    _, gradient = run_step(engine(), [collate([row], isolate_samples=True) for row in ROWS])
    parts = []
    for task in (0, 1):
        alone = [collate([row], isolate_samples=True) for row in ROWS if row[0] == task]
        parts.append(run_step(engine(), alone)[1])  # a task alone in a step has weight 1
    # Llama's norm rounds to float32, whatever the scale of the gradient.
    assert difference(gradient, (1.0 * parts[0] + 4.0 * parts[1]) / 5.0) < 1e-6


def test_an_absent_task_gets_no_weight_and_the_present_share_it():
    result, _ = run_step(engine(), cut([8]))
    np.testing.assert_allclose(result.weights, [0.2, 0.8, 0.0])
    assert result.losses.present.tolist() == [True, True, False]


def test_expected_units_as_denominators_leave_absent_tasks_their_weight():
    expected_units = np.array([10.0, 4.0, 7.0])
    result, gradient = run_step(engine(), cut([5, 3]), weighting="uniform", expected_units=expected_units)
    # Each task's loss counts a_i · T_i / E[T_i]; the third task keeps its third of the weight.
    effective = result.units[:2] / expected_units[:2] / 3
    loss, expected = formula("token", tuple(effective))
    assert result.loss == pytest.approx(loss.item(), rel=1e-12)
    assert difference(gradient, expected) < 1e-12
    np.testing.assert_allclose(result.weights, [*effective, 0.0], rtol=1e-12)


def test_over_an_epoch_expected_units_give_every_task_its_weight_and_units_of_the_step_do_not():
    steps = [[ROWS[i] for i in numbers] for numbers in ((0, 1, 2), (3, 4), (5, 6, 7))]
    batches = [[collate(rows, isolate_samples=True)] for rows in steps]
    units = np.sum([run_step(engine(), step)[0].units for step in batches], axis=0)
    effective = {
        key: np.mean([run_step(engine(), step, expected_units=expected)[0].weights for step in batches], axis=0)
        for key, expected in (("step", None), ("epoch", units / len(batches)))
    }
    np.testing.assert_allclose(effective["epoch"], [0.2, 0.8, 0.0], rtol=1e-12)
    np.testing.assert_allclose(effective["step"], [(1 + 0.2 + 0) / 3, (0 + 0.8 + 1) / 3, 0.0], rtol=1e-12)


@pytest.mark.parametrize("expected_units", [None, np.array([10.0, 4.0, 7.0])])
def test_a_task_that_is_not_trained_on_counts_nothing_though_the_step_has_its_rows(expected_units):
    options = {"expected_units": expected_units, "trains": np.array([True, False, True])}
    result, gradient = run_step(engine(), cut([8]), weighting="uniform", **options)
    weight = 1.0 if expected_units is None else result.units[0] / expected_units[0] / 2
    np.testing.assert_allclose(result.weights, [weight, 0.0, 0.0], rtol=1e-12)
    assert difference(gradient, formula("token", (weight, 0.0))[1]) < 1e-12
    only = [collate([row for row in ROWS if row[0] == 1], isolate_samples=True)]
    result, gradient = run_step(engine(), only, weighting="uniform", **options)
    assert not result.weights.any()
    assert not gradient.any()
    assert result.losses.present.tolist() == [False, True, False]  # its loss is still told


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_whose_loss_is_not_finite_changes_nothing(bad, name):
    trained, undisturbed = engine(), engine()
    reduction, undisturbed_reduction = reduction_of(name), reduction_of(name)
    head = trained.model.head.weight
    good = head[5, 0].item()
    with torch.no_grad():
        head[5, 0] = bad
    result, _ = run_step(trained, cut([8]), reduction)
    with torch.no_grad():
        head[5, 0] = good
    assert result.info.skipped
    assert np.isnan(result.loss)
    for _ in range(2):
        again = run_step(trained, cut([8]), reduction)[0]
        assert again.loss == run_step(undisturbed, cut([8]), undisturbed_reduction)[0].loss
    assert all(
        torch.equal(a, b) for a, b in zip(trained.model.parameters(), undisturbed.model.parameters(), strict=True)
    )


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too():
    class Infinite(LocalEngine):
        def __call__(self, batch, coefficients=None):
            nll, *losses = super().__call__(batch, coefficients)
            return nll + float("inf"), *losses

    trained = Infinite(TokenNLL(tiny_llama().double(), CausalAdapter()), Training(max_grad_norm=0.0))
    before = [p.detach().clone() for p in trained.model.parameters()]
    assert run_step(trained, cut([8]))[0].info.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, trained.model.parameters(), strict=True))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_of_a_step_that_overflowed_the_losses_are_told_but_not_used(name):
    """float16: the scaled gradient overflows though the losses are finite; the engine skips, and scales less."""

    class Overflowing(LocalEngine):
        def step(self, learning_rate):
            self._optimizer.zero_grad()
            return StepInfo(float("inf"), skipped=True)

    overflowing = Overflowing(TokenNLL(tiny_llama().double(), CausalAdapter()), Training(max_grad_norm=0.0))
    reduction, before = reduction_of(name), reduction_of(name).state_dict()
    result, _ = run_step(overflowing, cut([8]), reduction)
    assert result.info.skipped
    assert result.loss == run_step(engine(), cut([8]), reduction_of(name))[0].loss
    assert reduction.state_dict() == before


def test_evaluation_is_the_mean_per_task_and_leaves_dropout_on_for_training():
    trained = engine()
    model = tiny_llama().double()
    for unit in ("token", "sample"):
        losses = evaluate(trained, cut([5, 3]), unit=unit, num_tasks=3, group=Group())
        expected = [task_loss(samples_of(model, task), unit).item() for task in (0, 1)]
        np.testing.assert_allclose(losses.values, [*expected, np.nan], rtol=1e-12)
    assert trained.model.training


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_batch_measured_before_a_step_has_the_losses_of_the_step(name):
    trained = engine()
    before = measure(trained, cut([5, 3]), reduction=reduction_of(name), num_tasks=3, group=Group())
    result, _ = run_step(trained, cut([2, 6]), reduction_of(name))
    np.testing.assert_allclose(before.values, result.losses.values, rtol=1e-12)
    assert result.losses.present.tolist() == before.present.tolist() == [True, True, False]
