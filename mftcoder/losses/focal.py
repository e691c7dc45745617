"""Focal losses (MFTCoder, Liu et al., KDD 2024, Eq. 2 and 3, after Lin et al., ICCV 2017): what is easy fades.

With P the mean probability and Q the mean log-probability of the targets, over a sample's tokens or over a task's
samples, the loss is -(1 - P)^γ Q.
"""

import torch
from torch import Tensor

SMALLEST = 1e-6  # of 1 - P: float32 cannot tell a smaller one from 0, where the power has no gradient


def sample_means(values: Tensor, sample_ids: Tensor, num_samples: int) -> Tensor:
    """[N]: the mean of ``values`` [S] over the tokens of each sample; 0 for a sample without one."""
    counts = values.new_zeros(num_samples).index_add(0, sample_ids, torch.ones_like(values))
    return values.new_zeros(num_samples).index_add(0, sample_ids, values) / counts.clamp(min=1)


def focal_terms(probability: Tensor, log_probability: Tensor, gamma: float) -> Tensor:
    """-(1 - P)^γ Q, elementwise; the gradient flows through P as well."""
    return -((1 - probability).clamp(SMALLEST, 1.0) ** gamma) * log_probability


def focal_slopes(probability: Tensor, log_probability: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """(c1, c2), elementwise: minus the derivatives of -(1 - P)^γ Q by Q, and its derivative by P.

    The gradient of the loss is that of -c1 · Q + c2 · P with c1 and c2 held constant.
    """
    rest = (1 - probability).clamp(SMALLEST, 1.0)
    return rest**gamma, gamma * rest ** (gamma - 1) * log_probability
