"""AdamW and the learning-rate schedule."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mftcoder.config.problems import show
from mftcoder.config.schema import Training
from mftcoder.errors import MftcoderError

SHAPES: dict[str, Callable[[float], float]] = {  # share of the decay that is done -> share of the peak that is left
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "constant": lambda progress: 1.0,
}


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, of the kind ``training.optim``."""
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
    }
    groups = parameter_groups(model, training)
    if training.optim in ("adamw_torch", "adamw_torch_fused"):
        # Offloaded to the CPU as well: there the fused one is faster than DeepSpeed's, and needs no compiler.
        return torch.optim.AdamW(groups, fused=training.optim == "adamw_torch_fused", **settings)
    from bitsandbytes.optim import AdamW

    bits, paged = 8 if "8bit" in training.optim else 32, training.optim.startswith("paged")
    return AdamW(groups, optim_bits=bits, is_paged=paged, **settings)


def parameter_groups(model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """The trainable parameters by weight decay and by ``multiplier``, how much faster than the others they learn.

    Matrices decay, biases and gains never. MftcoderError if a pattern of ``training.learning_rates`` matches none.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    names, matched = [], set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        names.append(name := name.removeprefix("model."))  # of TokenNLL
        found = [i for i, group in enumerate(training.learning_rates) if re.search(group.pattern, name)]
        matched.update(found)
        multiplier = training.learning_rates[found[0]].multiplier if found else 1.0
        # Under ZeRO-3 a partitioned parameter is flat; its true shape is beside it.
        decays = len(getattr(parameter, "ds_shape", parameter.shape)) > 1
        groups.setdefault((decays, multiplier), []).append(parameter)
    for number, group in enumerate(training.learning_rates):
        if number not in matched:
            raise MftcoderError(
                f"training.learning_rates.{number}.pattern: {show(group.pattern)} matches no trained parameter; "
                f"they have names like {', '.join(names[:2] + names[-1:])}."
            )
    return [
        {"params": parameters, "weight_decay": training.weight_decay if decays else 0.0, "multiplier": multiplier}
        for (decays, multiplier), parameters in groups.items()
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """That of the next step; groups with a multiplier get their own."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["multiplier"]


def learning_rate(step: int, total_steps: int, training: Training) -> float:
    """The rate of optimizer step ``step`` (from 0) of ``total_steps``: linear warm-up, then the schedule's shape.

    The first step after warm-up has the full rate; step ``total_steps`` would have ``min_learning_rate``.
    """
    peak, low = training.learning_rate, training.min_learning_rate
    warmup = _steps(training.warmup_steps, total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    begin, shape = warmup, str(training.lr_scheduler_type)
    if shape == "warmup_stable_decay":
        begin, shape = max(warmup, total_steps - _steps(training.decay_steps, total_steps)), training.decay_type
    progress = (step - begin) / max(1, total_steps - begin)
    return low + (peak - low) * SHAPES[shape](min(1.0, max(0.0, progress)))


def _steps(number_or_fraction: float, total_steps: int) -> int:
    return math.ceil(number_or_fraction if number_or_fraction >= 1 else number_or_fraction * total_steps)


def steps_taken(optimizer: torch.optim.Optimizer) -> list[float]:
    """The counts of steps that ``optimizer`` keeps for its parameters, without repetition."""
    return sorted({float(state["step"]) for state in optimizer.state.values() if "step" in state})
