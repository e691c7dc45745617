"""RoPE whose frequencies depend on the length of the sequence ("longrope"), for each sample of a batch by itself.

The library chooses by the longest sample of the batch: a short one would then be encoded otherwise beside a long one
than alone, and the loss would depend on what is packed together.
"""

from typing import Any

import torch
from torch import Tensor, nn


class SampleRope:
    """Takes the place of the ``forward`` of a module of rotary embeddings."""

    def __init__(self, rotary: nn.Module, original_length: int) -> None:
        self._of_batch, self._original_length = rotary.forward, original_length

    def __call__(self, hidden: Tensor, position_ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [B, T, D], of ``position_ids`` [B, T], which restart at each sample."""
        long = sample_lengths(position_ids) > self._original_length
        zeros = torch.zeros_like(position_ids)
        # Where a call's positions do not count they are 0, but for one that makes the sequence long.
        stretched = torch.where(long, position_ids, zeros)
        stretched[0, 0] = torch.where(long[0, 0], position_ids[0, 0], self._original_length)
        of_short = self._of_batch(hidden, torch.where(long, zeros, position_ids), **options)
        of_long = self._of_batch(hidden, stretched, **options)
        cos, sin = (torch.where(long[..., None], *both) for both in zip(of_long, of_short, strict=True))
        return cos, sin


def sample_lengths(position_ids: Tensor) -> Tensor:
    """[B, T]: at every position, the length of the sample that it belongs to."""
    samples = (position_ids == 0).cumsum(1)
    last = position_ids.new_zeros(len(position_ids), position_ids.shape[1] + 1)
    last.scatter_reduce_(1, samples, position_ids, "amax")
    return last.gather(1, samples) + 1


def choose_by_sample(backbone: nn.Module) -> None:
    """Have every rotary embedding of ``backbone`` that is of the kind "longrope" look at each sample by itself."""
    rotary: Any
    for rotary in backbone.modules():
        if getattr(rotary, "rope_type", None) == "longrope" and not isinstance(rotary.forward, SampleRope):
            rotary.forward = SampleRope(rotary, rotary.config.rope_parameters["original_max_position_embeddings"])
