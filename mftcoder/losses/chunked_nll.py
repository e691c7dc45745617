"""Negative log-likelihood of targets under a linear head, in chunks: the whole logits [S, V] never exist.

One autograd function serves both uses. When it is known beforehand how much each position counts in the loss
(``coefficients``), the gradient is made in the forward chunks while the logits are at hand: three matrix products of
size S·H·V instead of the four that recomputing takes. Otherwise the backward pass makes the logits again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**25  # logits per chunk: 128 MiB in float32


@dataclass(frozen=True)
class LogitTransform:
    """What a family does between the linear head and the softmax: cap · tanh(scale · x / cap)."""

    scale: float = 1.0
    soft_cap: float | None = None

    def __call__(self, linear: Tensor) -> Tensor:
        logits = linear.to(torch.promote_types(linear.dtype, torch.float32)) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def gradient(self, logits: Tensor, grad: Tensor) -> Tensor:
        """The gradient at the linear output, from the logits and the gradient there."""
        if self.soft_cap is not None:
            grad = grad * (1 - (logits / self.soft_cap) ** 2)
        return grad * self.scale


def chunked_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    coefficients: Tensor | None = None,
    transform: LogitTransform = LogitTransform(),
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-position NLL, and its weighted sum as a loss.

    Args:
        hidden: [S, H], any floating dtype.
        weight: [V, H].
        bias: [V] or None.
        targets: [S] int64.
        coefficients: [S] floating, how much each position counts in the loss; None: the NLL itself is differentiable.
        transform: what stands between the linear head and the softmax.
        chunk_size: positions per chunk; default: as many as make CHUNK_ELEMENTS logits.

    Returns:
        ``(nll, loss)``: nll [S] in nats and loss [] = Σ coefficients · nll, both float32 (float64 from
        float64). With coefficients only the loss
        carries a gradient, without them only the nll does (and the loss is 0).
    """
    chunk = chunk_size or max(1, CHUNK_ELEMENTS // weight.shape[0])
    return _ChunkedNLL.apply(hidden, weight, bias, targets, coefficients, transform, chunk)


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
    ) -> tuple[Tensor, Tensor]:
        nll = torch.empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        coefficients = None if coefficients is None else coefficients.to(nll.dtype)
        grads = _Gradients(ctx.needs_input_grad, hidden, weight, bias) if coefficients is not None else None
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = transform(torch.nn.functional.linear(hidden[part], weight, bias))
            normalizer = torch.logsumexp(logits, dim=-1)
            nll[part] = normalizer - logits.gather(1, targets[part, None]).squeeze(1)
            if grads is not None and coefficients is not None:
                grads.add(part, logits, normalizer, targets[part], coefficients[part], transform)
        ctx.transform, ctx.chunk, ctx.made = transform, chunk, grads is not None
        if grads is None or coefficients is None:
            ctx.save_for_backward(hidden, weight, bias, targets)
            loss = nll.new_zeros(())
            ctx.mark_non_differentiable(loss)
        else:
            ctx.save_for_backward(*grads.finished())
            loss = (coefficients * nll).sum()
            ctx.mark_non_differentiable(nll)
        return nll, loss

    @staticmethod
    def backward(ctx: Any, grad_nll: Tensor, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.made:
            # In place: at [V, H] a second copy would be the largest tensor of the step. The graph serves once.
            made = [None if grad is None else grad.mul_(grad_loss) for grad in ctx.saved_tensors]
            return *made, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        grads = _Gradients(ctx.needs_input_grad, hidden, weight, bias)
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = ctx.transform(torch.nn.functional.linear(hidden[part], weight, bias))
            normalizer = torch.logsumexp(logits, dim=-1)
            grads.add(part, logits, normalizer, targets[part], grad_nll[part], ctx.transform)
        return *grads.finished(), None, None, None, None


class _Gradients:
    """Gradients of hidden [S, H], weight [V, H] and bias [V], filled chunk by chunk; None where not needed.

    Those of weight and bias are sums over chunks and are kept in float32 until finished.
    """

    def __init__(self, needed: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._inputs = hidden, weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.hidden = torch.zeros_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needed[2] else None

    def add(
        self, part: slice, logits: Tensor, normalizer: Tensor, targets: Tensor, scale: Tensor, transform: LogitTransform
    ) -> None:
        """Add what the positions ``part`` contribute when their NLL counts ``scale`` [C] in the loss."""
        hidden, weight = self._inputs
        grad = torch.exp(logits - normalizer[:, None])
        grad[torch.arange(len(targets), device=grad.device), targets] -= 1.0
        grad = transform.gradient(logits, grad * scale[:, None])
        if self.bias is not None:
            self.bias += grad.sum(0)
        grad = grad.to(hidden.dtype)
        if self.hidden is not None:
            self.hidden[part] = grad @ weight
        if self.weight is None:
            return
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(grad.T, hidden[part])
        else:
            self.weight += grad.T @ hidden[part]

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of hidden, weight and bias in the dtypes of these."""
        dtype = self._inputs[1].dtype
        weight, bias = (None if grad is None else grad.to(dtype) for grad in (self.weight, self.bias))
        return self.hidden, weight, bias
