"""Reductions: how the tokens of a task become one number, exactly, whatever the cut into micro-batches and ranks.

A reduction gives every supervised token a weight within its unit (a token or a sample). The total S_i of weighted NLL
and the number of units T_i of task i add up over micro-batches and ranks, and T_i is known before the first forward
pass, so each micro-batch contributes its share of the step's loss Σ_i a_i · S_i / T_i.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mftcoder.data.batch import Batch


def token_weights(batch: Batch) -> Tensor:
    """[S] float32: every token is a unit (MFTCoder Eq. 1)."""
    return torch.ones(len(batch.targets), device=batch.targets.device)


def sample_weights(batch: Batch) -> Tensor:
    """[S] float32: 1 / (supervised tokens of the token's sample), so that a sample's weights sum to 1."""
    ones = torch.ones(len(batch.targets), device=batch.targets.device)
    counts = torch.zeros(len(batch.sample_keys), device=ones.device).index_add_(0, batch.sample_ids, ones)
    return 1.0 / counts[batch.sample_ids]


REDUCTIONS = {"token": token_weights, "sample": sample_weights}


def count_units(batches: Iterable[Batch], num_tasks: int, reduction: str) -> Tensor:
    """[K] float64: units per task in ``batches`` (on the host). Samples without a supervised token do not count."""
    counts = np.zeros(num_tasks)
    for batch in batches:
        tasks = batch.supervised_tasks.numpy()
        if reduction == "sample":
            _, first = np.unique(batch.sample_ids.numpy(), return_index=True)
            tasks = tasks[first]
        counts += np.bincount(tasks, minlength=num_tasks)
    return torch.from_numpy(counts)


def task_totals(nll: Tensor, weights: Tensor, batch: Batch, num_tasks: int) -> Tensor:
    """[K] float64: the sum of ``weights`` · ``nll`` (both [S]) over the supervised positions of each task, in nats."""
    totals = torch.zeros(num_tasks, dtype=torch.float64, device=nll.device)
    return totals.index_add_(0, batch.supervised_tasks, weights.double() * nll.detach().double())


def coefficients(weights: Tensor, batch: Batch, task_weights: Tensor, units: Tensor) -> Tensor:
    """[S] float32: how much each supervised position's NLL counts in the loss of the step, weight · a_i / T_i.

    Args:
        weights: [S] from the reduction.
        task_weights: [K] float64, a_i; zero where a task is absent.
        units: [K] float64, T_i over all ranks and micro-batches of the step.
    """
    per_task = task_weights / units.clamp(min=1)
    return weights * per_task.float()[batch.supervised_tasks]
