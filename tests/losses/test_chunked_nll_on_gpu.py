"""On a GPU: the head with a kernel of its own, against float64 on the CPU."""

import pytest
import torch

from mftcoder.losses.chunked_nll import ByTask, LogitTransform, chunked_nll

pytestmark = pytest.mark.cuda
PRECISION = {torch.float32: 1e-3, torch.float16: 3e-3, torch.bfloat16: 1e-2}  # float32 products are rounded to tf32


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double().cpu() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("scale", "soft_cap"), [(1.0, None), (0.5, 3.0)])
@pytest.mark.parametrize(("vocabulary", "chunk"), [(300, 7), (20_011, None)])
def test_nll_and_gradients_are_those_of_float64(dtype, known, bias, scale, soft_cap, vocabulary, chunk):
    torch.manual_seed(0)
    exact = [torch.randn(50, 64), torch.randn(vocabulary, 64) * 0.3, torch.randn(vocabulary) if bias else None]
    exact = [None if tensor is None else tensor.to(dtype) for tensor in exact]
    on_gpu = [None if tensor is None else tensor.cuda().requires_grad_() for tensor in exact]
    exact = [None if tensor is None else tensor.double().requires_grad_() for tensor in exact]
    targets, coefficients = torch.randint(vocabulary, (50,)), torch.rand(50)
    expected = chunked_nll(*exact, targets, transform=LogitTransform(scale, soft_cap))[0]
    (expected * coefficients).sum().backward()
    nll, loss = chunked_nll(
        *on_gpu,
        targets.cuda(),
        coefficients=coefficients.cuda() if known else None,
        transform=LogitTransform(scale, soft_cap),
        chunk_size=chunk,
    )
    (loss if known else (nll * coefficients.cuda()).sum()).backward()
    assert relative(nll.detach(), expected.detach()) < PRECISION[dtype]
    for found, tensor in zip(on_gpu, exact, strict=True):
        if tensor is not None:
            assert relative(found.grad, tensor.grad) < PRECISION[dtype]


def test_the_tasks_gradients_add_up_to_the_whole():
    torch.manual_seed(0)
    hidden = torch.randn(50, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(300, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
    by_task = ByTask(torch.zeros(2, 300, 64, device="cuda"), ((0, 20), (1, 30)))
    coefficients = torch.rand(50, device="cuda")
    targets = torch.randint(300, (50,), device="cuda")
    chunked_nll(hidden, weight, None, targets, coefficients=coefficients, by_task=by_task, chunk_size=16)[1].backward()
    assert relative(by_task.sums.sum(0), weight.grad.double().cpu()) < 1e-2
    assert (by_task.sums.flatten(1).norm(dim=1) > 0).all()
