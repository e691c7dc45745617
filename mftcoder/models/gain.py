"""Each task's gradient at the gain of the final norm, from the ordinary backward pass: GradNorm's view of the model.

For out = gain ⊙ x̂ the gradient of a loss at the gain is the sum over positions of δ ⊙ x̂, with δ the loss's gradient at
out. Positions belong to tasks, so one pass gives the gradients of all tasks apart. Only supervised positions reach the
head; at the others δ is zero.
"""

import torch
from torch import Tensor, nn

NAMES = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm")  # of the last norm in the backbone


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

    def follow(self, selected: Tensor, supervised: Tensor, tasks: Tensor) -> None:
        """Collect what the backward pass will bring to ``selected`` [S, H].

        Args:
            selected: the rows ``supervised`` of the norm's output.
            supervised: [S] flat positions.
            tasks: [S] the task of each.
        """
        if self._normalized is None or not selected.requires_grad:
            return
        rows = self._normalized.flatten(0, -2).index_select(0, supervised)
        self._normalized = None
        if self._sums is None:
            self._sums = torch.zeros(self._num_tasks, rows.shape[-1], dtype=torch.float32, device=rows.device)
        sums = self._sums

        def add(gradient: Tensor) -> None:
            sums.index_add_(0, tasks, gradient.float() * rows.float())

        selected.register_hook(add)

    def take(self) -> Tensor | None:
        """[K, H] float32 since the last call, or None if there was no backward pass."""
        sums, self._sums = self._sums, None
        return sums

    def _note(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        x = inputs[0].detach().float()
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 1e-6
        if isinstance(norm, nn.LayerNorm):
            self._normalized = nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon)
        else:
            self._normalized = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
