"""The arithmetic of training, and its share of what the hardware could do (MFU; Chowdhery et al., 2022, appendix B).

What the method needs is counted, not what is done: neither recomputed activations nor padding, the head at supervised
positions only, attention only between a token and those that it sees. So the share is not raised by wasted work.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig

from mftcoder.distributed import Group
from mftcoder.models.adapter import TokenNLL
from mftcoder.models.quantization import whole_size

# Part of a GPU's name to its peak in bfloat16, dense, in 10^12 operations per second, as its maker gives it. The first
# that fits counts.
PEAK_TFLOPS = {
    "B300": 2500.0,
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of a forward and backward pass; a product and a sum are two."""

    per_token: float
    per_supervised_token: float  # of the head
    per_pair: float  # a token and one that it attends to

    def of(self, tokens: float, supervised_tokens: float, pairs: float) -> float:
        """Those of so many tokens."""
        return self.per_token * tokens + self.per_supervised_token * supervised_tokens + self.per_pair * pairs


@dataclass(frozen=True)
class Hardware:
    """What the rates of a run are held against."""

    device: torch.device  # of this rank
    num_ranks: int
    flops: TrainingFlops
    peak_tflops: float | None  # of one rank; None: not known

    @classmethod
    def of(cls, group: Group, model: TokenNLL, given_tflops: float | None) -> "Hardware":
        """That of ``group``; its peak rate is the ``given`` one, or else what the GPU's name tells."""
        if given_tflops is None and group.device.type == "cuda":
            given_tflops = peak_tflops(torch.cuda.get_device_name(group.device))
        return cls(group.device, group.size, training_flops(model), given_tflops)

    def utilisation(self, tokens: float, supervised_tokens: float, pairs: float, seconds: float) -> float | None:
        """The share of all ranks' peak rate that training on so many tokens in ``seconds`` reaches."""
        if self.peak_tflops is None:
            return None
        done = self.flops.of(tokens, supervised_tokens, pairs)
        return done / (seconds * self.num_ranks * self.peak_tflops * 1e12)

    def memory_gib(self) -> float:
        """On a GPU the most that was allocated since it was asked last; on a CPU what the process holds now."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak / 2**30
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def training_flops(model: TokenNLL) -> TrainingFlops:
    """What ``model`` takes: 6 per parameter of a matrix, 4 where it is frozen (its gradient is not needed).

    Of the experts of a mixture only those count that a token goes through. Every layer counts as full attention.
    """
    causal, config = model.causal, model.causal.config.get_text_config()
    lookups = {id(p) for module in causal.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    experts = _active_share(config)
    per_token = 0.0
    for name, parameter in causal.named_parameters():
        unused = "original_module" in name  # peft's copy of what is trained whole
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ZeRO-3 makes them flat
        if parameter is not model.head.weight and id(parameter) not in lookups and is_matrix and not unused:
            per_token += _flops(parameter) * (experts if ".experts." in name else 1.0)
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    # Forward 2 operations for the score and 2 for the value, per dimension; backward twice as many.
    return TrainingFlops(per_token, _flops(model.head.weight), 12.0 * config.num_hidden_layers * heads * head_size)


def peak_tflops(device_name: str) -> float | None:
    """The peak rate of the GPU of this name; None if it is not known."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in device_name), None)


def _flops(parameter: nn.Parameter) -> float:
    return whole_size(parameter) * (6.0 if parameter.requires_grad else 4.0)


def _active_share(config: PretrainedConfig) -> float:
    """The share of a mixture's experts that a token goes through."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    number = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    return getattr(config, "num_experts_per_tok", number) / number if number else 1.0
