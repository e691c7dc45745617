"""NEFTune (Jain et al., ICLR 2024): uniform noise on the embeddings while training."""

import math

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """Adds noise of at most alpha / sqrt(L d) to every entry of the embedding of a sample of L tokens, d entries each.

    L is the sample's own length, so that its noise does not depend on how samples are packed or padded. The noise comes
    from torch's generator, like dropout.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self._alpha = alpha
        self._bound: Tensor | None = None
        embedding.register_forward_hook(self._add)

    def follow(self, segment_ids: Tensor | None) -> None:
        """Have the next embedding of a batch, with ``segment_ids`` [B, T], disturbed; None: no embedding any more."""
        self._bound = None
        if segment_ids is not None:
            counts = segment_ids.new_zeros(len(segment_ids), segment_ids.shape[1] + 1)
            counts.scatter_add_(1, segment_ids, torch.ones_like(segment_ids))
            self._bound = self._alpha / counts.gather(1, segment_ids).double().sqrt()

    def _add(self, embedding: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self._bound is None:
            return None
        bound = (self._bound / math.sqrt(output.shape[-1])).reshape(*output.shape[:-1], 1)
        return output + torch.empty_like(output).uniform_(-1, 1) * bound.to(output.dtype)
