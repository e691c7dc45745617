"""The chunked head against torch's own cross-entropy over whole logits, in float64."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from mftcoder.losses.chunked_nll import ByTask, LogitTransform, _aligned_rows, chunked_nll

S, H, V = 23, 7, 31


def inputs(bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(S, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    b = torch.randn(V, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    targets = torch.randint(V, (S,), generator=generator)
    counts = torch.rand(S, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, weight, b, targets, counts


def whole_logits(hidden, weight, bias, transform: LogitTransform) -> torch.Tensor:
    logits = linear(hidden, weight, bias) * transform.scale
    return logits if transform.soft_cap is None else transform.soft_cap * torch.tanh(logits / transform.soft_cap)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.25), LogitTransform(1.5, 3.0)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 5, S, 100])
@pytest.mark.parametrize("known_beforehand", [True, False])
def test_nll_and_gradients_equal_those_of_whole_logits(transform, bias, chunk, known_beforehand):
    hidden, weight, b, targets, counts = inputs(bias)
    leaves = [t for t in (hidden, weight, b) if t is not None]
    expected_nll = cross_entropy(whole_logits(hidden, weight, b, transform), targets, reduction="none")
    expected = torch.autograd.grad(3.0 * (counts * expected_nll).sum(), leaves)

    nll, loss = chunked_nll(
        hidden,
        weight,
        b,
        targets,
        coefficients=counts if known_beforehand else None,
        transform=transform,
        chunk_size=chunk,
    )
    total = loss if known_beforehand else (counts * nll).sum()
    found = torch.autograd.grad(3.0 * total, leaves)

    torch.testing.assert_close(nll.detach(), expected_nll.detach(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, S, 100])
@pytest.mark.parametrize("known_beforehand", [True, False])
def test_the_gradient_at_the_weight_is_also_told_task_by_task(chunk, known_beforehand):
    hidden, weight, b, targets, counts = inputs()
    transform, spans = LogitTransform(1.5, 3.0), ((0, 4), (2, 9), (2, 0), (0, 7), (3, 3))
    tasks = torch.tensor([task for task, length in spans for _ in range(length)])
    nll = cross_entropy(whole_logits(hidden, weight, b, transform), targets, reduction="none")
    expected = [
        torch.autograd.grad(3.0 * (counts * nll)[tasks == task].sum(), weight, retain_graph=True)[0]
        for task in range(4)
    ]
    whole = torch.autograd.grad(3.0 * (counts * nll).sum(), (hidden, weight, b))

    by_task = ByTask(torch.zeros(4, V, H, dtype=torch.float64), spans)
    coefficients = counts if known_beforehand else None
    ours, loss = chunked_nll(
        hidden, weight, b, targets, coefficients=coefficients, transform=transform, chunk_size=chunk, by_task=by_task
    )
    found = torch.autograd.grad(3.0 * (loss if known_beforehand else (counts * ours).sum()), (hidden, weight, b))
    torch.testing.assert_close(by_task.sums, torch.stack(expected), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_gradient_through_the_nll_passes_gradcheck():
    hidden, weight, b, targets, _ = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w, c: chunked_nll(h, w, c, targets, transform=LogitTransform(0.5, 4.0), chunk_size=6)[0],
        (hidden, weight, b),
    )


def test_frozen_head_gets_no_gradient_and_hidden_states_the_same_one():
    hidden, weight, b, targets, counts = inputs()
    free = torch.autograd.grad(chunked_nll(hidden, weight, b, targets, coefficients=counts)[1], hidden)[0]
    frozen_loss = chunked_nll(hidden, weight.detach(), b.detach(), targets, coefficients=counts)[1]
    assert torch.equal(torch.autograd.grad(frozen_loss, hidden)[0], free)


def test_weight_gradient_of_many_chunks_in_bfloat16_is_as_good_as_that_of_one():
    hidden, weight, b, targets, counts = inputs(dtype=torch.bfloat16)
    exact = inputs()
    exact = [t.detach().to(torch.bfloat16).double().requires_grad_() for t in exact[:3]]
    expected = torch.autograd.grad(
        (counts.double() * cross_entropy(linear(*exact), targets, reduction="none")).sum(), exact[1]
    )[0]
    errors = []
    for chunk in (S, 1):
        grad = torch.autograd.grad(
            chunked_nll(hidden, weight, b, targets, coefficients=counts, chunk_size=chunk)[1], weight
        )[0]
        errors.append(((grad.double() - expected).norm() / expected.norm()).item())
    assert errors[1] < 1.2 * errors[0] < 0.02  # sums over chunks are kept in float32


def test_no_position_gives_zero_loss_and_zero_gradients():
    hidden, weight, b, _, _ = inputs()
    none = torch.zeros(0, dtype=torch.int64)
    nll, loss = chunked_nll(hidden[:0], weight, b, none, coefficients=torch.zeros(0, dtype=torch.float64))
    loss.backward()
    assert nll.shape == (0,)
    assert loss.item() == 0.0
    assert not weight.grad.any()
    assert not b.grad.any()
    assert not hidden.grad.any()


def test_the_largest_gradient_is_handed_on_without_a_copy():
    hidden, weight, b, targets, counts = inputs()
    _, loss = chunked_nll(hidden, weight, b, targets, coefficients=counts, chunk_size=5)
    made = loss.grad_fn.made[1].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == made


def test_a_gradient_below_what_float16_can_hold_survives_a_loss_scale():
    hidden, weight, _, targets, _ = inputs(bias=False)
    coefficients, scale = torch.full(targets.shape, 1e-7), 2.0**20  # 1e-7 times a gradient rounds to 0 in float16
    found = []
    for dtype in (torch.float16, torch.float64):
        h, w = (tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, weight))
        _, loss = chunked_nll(h, w, None, targets, coefficients=coefficients)
        (loss * scale).backward()
        found.append((h.grad.double() / scale, w.grad.double() / scale))
    for ours, reference in zip(*found, strict=True):
        assert (ours - reference).norm() / reference.norm() < 0.01  # 11 bits of mantissa


@pytest.mark.parametrize("size", [1, 64, 65, 300])
def test_every_row_of_logits_begins_at_a_multiple_of_64_elements(size):
    rows = _aligned_rows(3, size, torch.bfloat16, torch.device("cpu"))
    assert rows.shape == (3, size)
    assert [row.storage_offset() % 64 for row in rows] == [0, 0, 0]
