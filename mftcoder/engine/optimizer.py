"""AdamW and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn

from mftcoder.config.schema import Training


def adamw(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices, never on biases and gains."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Under ZeRO-3 a partitioned parameter is flat; its true shape is beside it.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decayed if len(shape) > 1 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
    )


def learning_rate(step: int, total_steps: int, training: Training) -> float:
    """The rate of optimizer step ``step`` (from 0) of ``total_steps``: linear warm-up, then the schedule's shape.

    The first step after warm-up has the full rate; step ``total_steps`` would have ``min_learning_rate``.
    """
    peak, low = training.learning_rate, training.min_learning_rate
    warmup = training.warmup_steps if training.warmup_steps >= 1 else training.warmup_steps * total_steps
    warmup = math.ceil(warmup)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if training.lr_scheduler_type == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    shape = (1 - progress) if training.lr_scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return low + (peak - low) * shape
