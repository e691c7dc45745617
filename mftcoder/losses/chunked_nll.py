"""Negative log-likelihood of targets under a linear head, in chunks: the whole logits [S, V] never exist.

One autograd function serves both uses. When it is known beforehand how much each position counts in the loss
(``coefficients``), the gradient is made in the forward chunks while the logits are at hand: three matrix products of
size S·H·V instead of the four that recomputing takes. Otherwise the backward pass makes the logits again.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 3 * 2**23  # logits per chunk: 96 MiB in float32; with 64 a step takes longer
# On a GPU 1 GiB: every chunk adds to the gradient of the whole head, so that many small ones cost more than the logits.
CHUNK_ELEMENTS_ON_GPU = 2**28


@dataclass(frozen=True)
class LogitTransform:
    """What a family does between the linear head and the softmax: cap · tanh(scale · x / cap)."""

    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, linear: Tensor) -> Tensor:
        """The logits, in the place of ``linear``."""
        if self.scale != 1.0:
            linear.mul_(self.scale)
        return linear if self.soft_cap is None else linear.div_(self.soft_cap).tanh_().mul_(self.soft_cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """The derivative of ``logits`` by scale · linear output; None: 1."""
        return None if self.soft_cap is None else 1 - (logits / self.soft_cap) ** 2


@dataclass(frozen=True)
class ByTask:
    """Where the gradient at the head's weight is also collected for each task apart.

    Attributes:
        sums: [K, V, H] float32, added to by every backward pass.
        spans: (task, number of positions) of consecutive positions. They lie on the host, so that no accelerator waits.
    """

    sums: Tensor
    spans: tuple[tuple[int, int], ...]

    def within(self, part: slice) -> Iterator[tuple[int, slice]]:
        """(task, its positions within ``part``, counted from there) of the spans that meet ``part``."""
        first = 0
        for task, length in self.spans:
            start, stop = max(first, part.start), min(first + length, part.stop)
            if start < stop:
                yield task, slice(start - part.start, stop - part.start)
            first += length


def chunked_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    coefficients: Tensor | None = None,
    transform: LogitTransform = LogitTransform(),
    chunk_size: int | None = None,
    by_task: ByTask | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-position NLL, and its weighted sum as a loss.

    Args:
        hidden: [S, H], any floating dtype.
        weight: [V, H].
        bias: [V] or None.
        targets: [S] int64.
        coefficients: [S] floating, how much each position counts in the loss; None: the NLL itself is differentiable.
        transform: what stands between the linear head and the softmax.
        chunk_size: positions per chunk; default: ``positions_per_chunk``.
        by_task: what the backward pass is to fill. It then makes the logits again even with coefficients.

    Returns:
        ``(nll, loss)``: nll [S] in nats and loss [] = Σ coefficients · nll, both float32 (float64 from
        float64). With coefficients only the loss
        carries a gradient, without them only the nll does (and the loss is 0).
    """
    chunk = chunk_size or positions_per_chunk(weight.shape[0], on_gpu=weight.is_cuda)
    # In float16 a gradient made here would underflow: the loss scale comes with the backward pass.
    if coefficients is not None and (by_task is not None or hidden.dtype == torch.float16):
        nll, _ = _ChunkedNLL.apply(hidden, weight, bias, targets, None, transform, chunk, by_task)
        return nll.detach(), (coefficients.to(nll.dtype) * nll).sum()
    return _ChunkedNLL.apply(hidden, weight, bias, targets, coefficients, transform, chunk, by_task)


def positions_per_chunk(vocabulary: int, *, on_gpu: bool) -> int:
    """How many positions at a time meet the head."""
    return max(1, (CHUNK_ELEMENTS_ON_GPU if on_gpu else CHUNK_ELEMENTS) // vocabulary)


class _ChunkedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        coefficients: Tensor | None,
        transform: LogitTransform,
        chunk: int,
        by_task: ByTask | None,
    ) -> tuple[Tensor, Tensor]:
        grads = None if coefficients is None else _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        nll = _run(hidden, weight, bias, targets, coefficients, transform, chunk, grads)
        ctx.transform, ctx.chunk, ctx.by_task, ctx.made = transform, chunk, by_task, None
        if grads is None or coefficients is None:
            ctx.save_for_backward(hidden, weight, bias, targets)
            loss = nll.new_zeros(())
            ctx.mark_non_differentiable(loss)
        else:
            ctx.made = grads.finished()  # as saved tensors they would be held, and so copied when they become .grad
            loss = (coefficients.to(nll.dtype) * nll).sum()
            ctx.mark_non_differentiable(nll)
        return nll, loss

    @staticmethod
    def backward(ctx: Any, grad_nll: Tensor, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.made:
            # In place: at [V, H] a second copy would be the largest tensor of the step. The graph serves once.
            made, ctx.made = [None if grad is None else grad.mul_(grad_loss) for grad in ctx.made], None
            return *made, None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        grads = _Gradients(ctx.needs_input_grad, hidden, weight, bias, ctx.by_task)
        _run(hidden, weight, bias, targets, grad_nll, ctx.transform, ctx.chunk, grads)
        return *grads.finished(), None, None, None, None, None


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    coefficients: Tensor | None,
    transform: LogitTransform,
    chunk: int,
    grads: "_Gradients | None",
) -> Tensor:
    """The NLL [S]; fills ``grads``, if any, with what it brings when position s counts ``coefficients`` [s].

    The logits of all chunks take turns in one piece of memory, and everything is done in place there: asking the
    system for it anew would cost as much as the softmax.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    nll = torch.empty(len(targets), dtype=wide, device=hidden.device)
    memory = _aligned_rows(min(chunk, len(targets)), len(weight), wide, hidden.device)
    if memory.is_cuda and wide == torch.float32 and (kernel := _softmax_kernel()):
        _run_by_kernel(kernel, hidden, weight, bias, targets, coefficients, transform, grads, nll, memory)
        return nll
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        wanted = targets[part, None]
        logits = transform(_linear(hidden[part], weight, bias, memory[: len(wanted)]))
        slope = transform.slope(logits) if grads else None
        exponentials = logits.sub_(logits.amax(-1, keepdim=True))
        at_target = exponentials.gather(1, wanted).squeeze(1)
        sums = exponentials.exp_().sum(-1)
        nll[part] = sums.log() - at_target
        if grads is not None and coefficients is not None:
            # d NLL / d logits = exponentials / sums - 1 at the target; the division is left to smaller matrices.
            exponentials.scatter_add_(1, wanted, -sums[:, None])
            if slope is not None:
                exponentials.mul_(slope)
            grads.add(part, exponentials, coefficients[part].to(wide) * transform.scale / sums)
    return nll


def _run_by_kernel(
    softmax_nll: Callable[..., None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    coefficients: Tensor | None,
    transform: LogitTransform,
    grads: "_Gradients | None",
    nll: Tensor,
    memory: Tensor,
) -> None:
    """The same with a kernel of its own for the softmax."""
    made = None
    if grads is not None and coefficients is not None:
        made = (
            memory
            if hidden.dtype == memory.dtype
            else _aligned_rows(len(memory), len(weight), hidden.dtype, memory.device)
        )
    for start in range(0, len(targets), len(memory)):
        part = slice(start, start + len(memory))
        wanted = targets[part]
        linear = _linear(hidden[part], weight, bias, memory[: len(wanted)])
        grad = None if made is None else made[: len(wanted)]
        softmax_nll(linear, wanted, nll[part], grad, transform.scale, transform.soft_cap)
        if grads is not None and coefficients is not None and grad is not None:
            grads.add(part, grad, coefficients[part].float() * transform.scale)


def _aligned_rows(number: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory [number, size] whose rows begin at multiples of 64 elements, which products on a GPU want, at any size."""
    return torch.empty(number, -(-size // 64) * 64, dtype=dtype, device=device)[:, :size]


@functools.cache
def _softmax_kernel() -> Callable[..., None] | None:
    """That of ``softmax_kernel`` where it works: it is compiled on the spot, which takes Triton and a C compiler."""
    try:
        from mftcoder.losses.softmax_kernel import softmax_nll

        one = torch.ones(1, 8, device="cuda")
        softmax_nll(one, torch.zeros(1, dtype=torch.int64, device="cuda"), one[0, :1].clone(), None, 1.0, None)
    except Exception as error:  # of many kinds, by what is missing
        warnings.warn(f"the head's softmax is slower than it could be, since Triton fails: {error}", stacklevel=2)
        return None
    return softmax_nll


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """hidden · weightᵀ + bias, written to ``out``."""
    if hidden.dtype != out.dtype and hidden.is_cuda and bias is None and hidden.dtype == weight.dtype:
        return torch.mm(hidden, weight.T, out_dtype=out.dtype, out=out)
    if hidden.dtype != out.dtype:
        return out.copy_(torch.nn.functional.linear(hidden, weight, bias))
    if bias is None:
        return torch.mm(hidden, weight.T, out=out)
    return torch.addmm(bias, hidden, weight.T, out=out)


class _Gradients:
    """Gradients of hidden [S, H], weight [V, H] and bias [V], filled chunk by chunk; None where not needed.

    Those of weight and bias are sums over chunks and are kept in float32 until finished.
    """

    def __init__(
        self,
        needed: tuple[bool, ...],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        by_task: ByTask | None = None,
    ) -> None:
        self._inputs, self._by_task = (hidden, weight), by_task
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.hidden = torch.zeros_like(hidden) if needed[0] else None
        # The first chunk fills it; without any, and where products have another dtype, it begins as zeros.
        self._begun = len(hidden) == 0 or (wide != hidden.dtype and not hidden.is_cuda)
        self.weight = (torch.zeros_like if self._begun else torch.empty_like)(weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needed[2] else None

    def add(self, part: slice, grad: Tensor, factors: Tensor) -> None:
        """Add what the positions ``part`` bring; the gradient at their linear output is factors [C] · grad [C, V]."""
        hidden, weight = self._inputs
        if self.bias is not None:
            self.bias += factors @ grad.to(factors.dtype)
        grad, factors = grad.to(hidden.dtype), factors[:, None]
        if self.hidden is not None:
            self.hidden[part] = (grad @ weight) * factors
        if self.weight is None and self._by_task is None:
            return
        scaled = (hidden[part] * factors).to(hidden.dtype)
        if self._by_task is not None:
            for task, its in self._by_task.within(part):
                self._by_task.sums[task] += grad[its].T @ scaled[its]
        if self.weight is None:
            return
        before = 1 if self._begun else 0  # of what is in the memory, counts
        self._begun = True
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(grad.T, scaled, beta=before)
        elif scaled.is_cuda:
            torch.addmm(self.weight, grad.T, scaled, beta=before, out_dtype=self.weight.dtype, out=self.weight)
        else:
            self.weight += grad.T @ scaled

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of hidden, weight and bias in the dtypes of these."""
        dtype = self._inputs[1].dtype
        weight, bias = (None if grad is None else grad.to(dtype) for grad in (self.weight, self.bias))
        return self.hidden, weight, bias
