"""The softmax of a chunk of logits on a GPU, in two passes over them: its NLL, and the NLL's derivative.

What ``chunked_nll`` does operation by operation on a CPU, one kernel does here, since each operation would be a pass
over the largest tensor of the step.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  # logits of a row at a time


@triton.jit
def _cap(x, cap):
    return cap * (2.0 / (1.0 + tl.exp(-2.0 * x / cap)) - 1.0)  # cap · tanh(x / cap)


@triton.jit  # which takes no annotations but these
def _kernel(
    linear,
    gradient,
    targets,
    nll,
    size,
    linear_stride,
    gradient_stride,
    scale,
    cap,
    capped: tl.constexpr,
    writes: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    linear += row * linear_stride
    target = tl.load(targets + row)
    largest = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, size, block):
        at = start + tl.arange(0, block)
        x = tl.load(linear + at, mask=at < size, other=0.0).to(tl.float32) * scale
        if capped:
            x = _cap(x, cap)
        x = tl.where(at < size, x, -float("inf"))
        larger = tl.maximum(largest, tl.max(x))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(x - larger))
        largest = larger
    at_target = tl.load(linear + target).to(tl.float32) * scale
    if capped:
        at_target = _cap(at_target, cap)
    tl.store(nll + row, tl.log(total) + largest - at_target)
    if writes:
        tl.debug_barrier()  # the gradient may take the place of what is read above
        gradient += row * gradient_stride
        for start in range(0, size, block):
            at = start + tl.arange(0, block)
            x = tl.load(linear + at, mask=at < size, other=0.0).to(tl.float32) * scale
            if capped:
                x = _cap(x, cap)
            by_logit = tl.exp(x - largest) / total - tl.where(at == target, 1.0, 0.0)
            if capped:
                by_logit *= 1.0 - (x / cap) * (x / cap)
            tl.store(gradient + at, by_logit.to(gradient.dtype.element_ty), mask=at < size)


def softmax_nll(
    linear: Tensor, targets: Tensor, nll: Tensor, gradient: Tensor | None, scale: float, soft_cap: float | None
) -> None:
    """Fill ``nll`` [C] float32 and, if given, ``gradient`` [C, V]: d NLL / d (scale · linear).

    Args:
        linear: [C, V] float32, the output of the linear head.
        targets: [C] int64.
        nll: where the NLL of softmax(cap · tanh(scale · linear / cap)) goes.
        gradient: of any floating dtype.
        scale: of the linear output.
        soft_cap: None: no tanh.
    """
    num_rows, size = linear.shape
    written = linear if gradient is None else gradient
    with torch.cuda.device(linear.device):
        _kernel[(num_rows,)](
            linear,
            written,
            targets,
            nll,
            size,
            linear.stride(0),
            written.stride(0),
            scale,
            soft_cap or 1.0,
            capped=soft_cap is not None,
            writes=gradient is not None,
            block=min(BLOCK, triton.next_power_of_2(size)),
            num_warps=16 if size >= BLOCK else 4,
        )
