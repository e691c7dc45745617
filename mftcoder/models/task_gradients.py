"""Each task's gradient at parameters that all tasks share, from the ordinary backward pass: what GradNorm sees.

They are the gain of the final norm or the weight of the head. For out = gain ⊙ x̂ the gradient of a loss at the gain is
the sum over positions of δ ⊙ x̂, with δ the loss's gradient at out. Positions belong to tasks, so one pass gives the
gradients of all tasks apart. Only supervised positions reach the head; at the others δ is zero. At the head's weight a
task's gradient is a whole matrix.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.losses.chunked_nll import ByTask

NAMES = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm")  # of the last norm in the backbone
HEAD_GIB = 4  # for the gradients of all tasks at the head


class GradientWatch(Protocol):
    """Collects the tasks' gradients over the backward passes of a step."""

    def follow(self, selected: Tensor, batch: Batch) -> ByTask | None:
        """Collect what the backward pass will bring to ``selected`` [S, H], the head's input.

        What the head is to collect in its backward pass is returned.
        """
        ...

    def take(self, group: Group) -> Tensor | None:
        """[K] float64: the norms of the tasks' gradients in all ranks' passes since the last call, divided by the
        number of ranks, with which every loss is scaled. None if there was no backward pass.
        """
        ...


class GainWatch:
    """Collects, over the backward passes of a step, Σ δ ⊙ x̂ of each task's positions.

    Needs no parameter, so it works under ZeRO-3, where the gain is not there during the backward pass.
    """

    def __init__(self, backbone: nn.Module, num_tasks: int) -> None:
        norms = [getattr(backbone, name) for name in NAMES if isinstance(getattr(backbone, name, None), nn.Module)]
        if not norms:
            raise ValueError(f"{type(backbone).__name__} has no final norm among {', '.join(NAMES)}")
        self._norm, self._num_tasks = norms[0], num_tasks
        self._normalized: Tensor | None = None
        self._sums: Tensor | None = None
        self._norm.register_forward_hook(self._note)

    def follow(self, selected: Tensor, batch: Batch) -> None:
        """See GradientWatch."""
        if self._normalized is None or not selected.requires_grad:
            return
        rows = self._normalized.flatten(0, -2).index_select(0, batch.supervised)
        self._normalized = None
        if self._sums is None:
            self._sums = torch.zeros(self._num_tasks, rows.shape[-1], dtype=torch.float32, device=rows.device)
        sums, tasks = self._sums, batch.supervised_tasks

        def add(gradient: Tensor) -> None:
            sums.index_add_(0, tasks, gradient.float() * rows.float())

        selected.register_hook(add)

    def take(self, group: Group) -> Tensor | None:
        """See GradientWatch."""
        sums, self._sums = self._sums, None
        return None if sums is None else group.sum(sums.double()).norm(dim=1) / group.size

    def _note(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        x = inputs[0].detach().float()
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 1e-6
        if isinstance(norm, nn.LayerNorm):
            self._normalized = nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon)
        else:
            self._normalized = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


class HeadWatch:
    """Collects the tasks' gradients at the head's weight.

    Where embedding and head are one parameter, these are the gradients by its use as the head.
    """

    def __init__(self, weight: nn.Parameter, num_tasks: int) -> None:
        self._shape = (num_tasks, *getattr(weight, "ds_shape", weight.shape))  # ZeRO-3 partitions the weight
        self._sums: Tensor | None = None  # kept from step to step
        self._waits = False  # for a backward pass, or since it for ``take``

    def follow(self, selected: Tensor, batch: Batch) -> ByTask | None:
        """See GradientWatch."""
        if not selected.requires_grad:
            return None
        if self._sums is None:
            self._sums = torch.zeros(self._shape, dtype=torch.float32, device=selected.device)
        self._waits = True
        return ByTask(self._sums, batch.task_spans)

    def take(self, group: Group) -> Tensor | None:
        """See GradientWatch. One collective per task, each of the size of the head."""
        if self._sums is None or not self._waits:
            return None
        norms = [torch.linalg.vector_norm(group.sum(part), dtype=torch.float64) for part in self._sums]
        self._sums.zero_()
        self._waits = False
        return torch.stack(norms) / group.size


def check_head_gradients(config: PretrainedConfig, num_tasks: int) -> None:
    """MftcoderError if the gradients of ``num_tasks`` tasks at the head need more than HEAD_GIB."""
    text = config.get_text_config()
    need = 4 * num_tasks * text.vocab_size * text.hidden_size / 2**30
    if need > HEAD_GIB:
        raise MftcoderError(
            f'loss.weighting.shared: "lm_head" keeps {num_tasks} gradients of {text.vocab_size:,} x '
            f"{text.hidden_size:,} numbers in float32 on every rank, {need:.1f} GiB; the limit is {HEAD_GIB} GiB. "
            'Choose "final_norm".'
        )
