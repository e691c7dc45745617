"""Reductions: how the tokens of a task become one number, exactly, whatever the cut into micro-batches and ranks.

A reduction turns a micro-batch into C sums per task, which add up over micro-batches and ranks. With their totals and
the number T_i of the task's units (tokens or samples) the task's loss l_i is known, and the gradient of T_i · l_i is
that of a weighted sum of the sums, with weights that are known before the step. T_i and the weights a_i of the tasks
being known too, each micro-batch contributes its share of the step's loss Σ_i a_i · l_i.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mftcoder.config import schema
from mftcoder.data.batch import Batch
from mftcoder.losses.focal import focal_slopes, focal_terms, sample_means
from mftcoder.losses.weighting.base import TaskLosses, Vector, by_task, to_json
from mftcoder.tasks import TaskSet

Unit = Literal["token", "sample"]


class Reduction(Protocol):
    """Maps per-token NLL to sums per task, and their totals to a loss per task."""

    unit: Unit

    @property
    def sum_weights(self) -> Vector:
        """[C, K]: how much each sum counts in the gradient of T_i · l_i in the next step."""
        ...

    def position_weights(self, batch: Batch) -> Tensor | None:
        """[S] float64: how much each position's NLL counts in the first sum, the only one that then has a weight.

        None if that depends on the NLL, so that ``sums`` has to be differentiated.
        """
        ...

    def sums(self, nll: Tensor, batch: Batch, num_tasks: int) -> Tensor:
        """[C, K] float64: the sums over a micro-batch, differentiable by ``nll`` [S] (nats)."""
        ...

    def totals(self, sums: Vector, units: Vector) -> Vector:
        """[K] nats: T_i · l_i from the sums [C, K] and units [K] of all micro-batches and ranks."""
        ...

    def observe(self, sums: Vector, units: Vector) -> None:
        """Take note of the sums and units of a step that was taken."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        ...


class Mean:
    """``token`` (MFTCoder Eq. 1): the mean NLL of a task's tokens. ``sample``: that of its samples' token means."""

    def __init__(self, unit: Unit, alpha: Vector) -> None:
        """``alpha`` [K] are factors of the tasks' losses."""
        self.unit = unit
        self._alpha = alpha

    @property
    def sum_weights(self) -> Vector:
        """[1, K]: α."""
        return self._alpha[None]

    def position_weights(self, batch: Batch) -> Tensor | None:
        """[S] float64: 1, or 1 / (supervised tokens of the token's sample)."""
        return unit_weights(batch, self.unit)

    def sums(self, nll: Tensor, batch: Batch, num_tasks: int) -> Tensor:
        """[1, K] float64: the NLL of a task's tokens or samples, in nats."""
        weighted = unit_weights(batch, self.unit) * nll
        return weighted.new_zeros(1, num_tasks).index_add(1, batch.supervised_tasks, weighted[None])

    def totals(self, sums: Vector, units: Vector) -> Vector:
        """[K] nats."""
        return self._alpha * sums[0]

    def observe(self, sums: Vector, units: Vector) -> None:
        """Nothing is kept."""

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """No state."""


class FocalSample(Mean):
    """``focal_sample`` (Eq. 2): a sample counts -α (1 - P)^γ Q, a task the mean of its samples."""

    def __init__(self, gamma: float, alpha: Vector) -> None:
        """``alpha`` [K] are factors of the tasks' losses."""
        super().__init__("sample", alpha)
        self.gamma = gamma

    def position_weights(self, batch: Batch) -> Tensor | None:
        """None, but at γ = 0, where the loss is the plain one."""
        return super().position_weights(batch) if self.gamma == 0 else None

    def sums(self, nll: Tensor, batch: Batch, num_tasks: int) -> Tensor:
        """[1, K] float64: the focal terms of a task's samples, before α."""
        probability, log_probability, tasks = _samples(nll, batch)
        terms = focal_terms(probability, log_probability, self.gamma)
        return terms.new_zeros(1, num_tasks).index_add(1, tasks, terms[None])


class FocalTask(FocalSample):
    """``focal_task`` (Eq. 3): a task counts -α (1 - P)^γ Q, with the means P and Q of its samples.

    That is no sum over samples. Its gradient is that of α (-c1 · Q + c2 · P), with c1 and c2 made of P and Q over the
    whole step, which no loop knows before the backward pass. So they are those of the last step in which the task was
    present; in its first one c1 = 1 and c2 = 0, the plain loss.
    """

    def __init__(self, gamma: float, alpha: Vector) -> None:
        """``alpha`` [K] are factors of the tasks' losses."""
        super().__init__(gamma, alpha)
        self.slopes = np.stack([np.ones(len(alpha)), np.zeros(len(alpha))])  # c1, c2

    @property
    def sum_weights(self) -> Vector:
        """[2, K]: α · c1 and α · c2."""
        return self._alpha * self.slopes

    def sums(self, nll: Tensor, batch: Batch, num_tasks: int) -> Tensor:
        """[2, K] float64: over a task's samples, minus their Q (nats) and their P."""
        probability, log_probability, tasks = _samples(nll, batch)
        terms = torch.stack([-log_probability, probability])
        return terms.new_zeros(2, num_tasks).index_add(1, tasks, terms)

    def totals(self, sums: Vector, units: Vector) -> Vector:
        """[K] nats: the loss of each task, times its samples."""
        probability, log_probability = _means(sums, units)
        return self._alpha * units * focal_terms(probability, log_probability, self.gamma).numpy()

    def observe(self, sums: Vector, units: Vector) -> None:
        """Make the coefficients of the next step; those of absent tasks stay."""
        probability, log_probability = _means(sums, units)
        slopes = torch.stack(focal_slopes(probability, log_probability, self.gamma)).numpy()
        self.slopes = np.where(units > 0, slopes, self.slopes)

    def state_dict(self) -> dict[str, Any]:
        """The coefficients."""
        return {"slopes": to_json(self.slopes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.slopes = np.array(state["slopes"], dtype=np.float64)


def _means(sums: Vector, units: Vector) -> tuple[Tensor, Tensor]:
    """P and Q [K] from the sums of FocalTask; 0 for absent tasks."""
    minus_log_probability, probability = torch.from_numpy(sums / np.maximum(units, 1))
    return probability, -minus_log_probability


def _samples(nll: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """P, Q (float64) and the task of each sample, [N]; P and Q are 0, and add nothing, without a supervised token."""
    num_samples, nll = len(batch.sample_keys), nll.double()
    probability = sample_means(torch.exp(-nll), batch.sample_ids, num_samples)
    log_probability = sample_means(-nll, batch.sample_ids, num_samples)
    tasks = batch.sample_ids.new_zeros(num_samples).scatter_(0, batch.sample_ids, batch.supervised_tasks)
    return probability, log_probability, tasks


def build_reduction(config: schema.Reduction, tasks: TaskSet) -> Reduction:
    """The reduction that ``loss.reduction`` asks for; MftcoderError if its settings do not fit ``tasks``."""
    if isinstance(config, schema.FocalSampleReduction | schema.FocalTaskReduction):
        alpha = by_task(tasks, config.alpha, 1.0, "loss.reduction.alpha")
        return (FocalSample if config.type == "focal_sample" else FocalTask)(config.gamma, alpha)
    return Mean(config.type, np.ones(len(tasks)))


def unit_weights(batch: Batch, unit: Unit) -> Tensor:
    """[S] float64: what each token is of its unit, 1 or 1 / (supervised tokens of its sample)."""
    ones = torch.ones(len(batch.targets), dtype=torch.float64, device=batch.targets.device)
    if unit == "token":
        return ones
    counts = ones.new_zeros(len(batch.sample_keys)).index_add_(0, batch.sample_ids, ones)
    return 1.0 / counts[batch.sample_ids]


def moments(nll: Tensor, batch: Batch, num_tasks: int, unit: Unit) -> Tensor:
    """[5, K] float64: Σ t, Σ c, Σ t², Σ t·c, Σ c² over the samples of each task.

    t is what a sample adds to the NLL of its task (nats), c to its units. They add up over micro-batches and ranks.
    """
    weights = unit_weights(batch, unit)
    added = weights.new_zeros(2, len(batch.sample_keys)).index_add_(
        1, batch.sample_ids, torch.stack([weights * nll.double(), weights])
    )
    if unit == "sample":
        added[1] = added[1].round()  # 1 but for rounding, and 0 for a sample without a supervised token
    tasks = batch.sample_ids.new_zeros(len(batch.sample_keys)).scatter_(0, batch.sample_ids, batch.supervised_tasks)
    t, c = added
    terms = torch.stack([t, c, t * t, t * c, c * c])
    return terms.new_zeros(5, num_tasks).index_add_(1, tasks, terms)


def mean_losses(sums: Vector) -> TaskLosses:
    """The mean NLL of each task and its standard error, from the ``moments`` [5, K] of all its samples.

    The error is that of a ratio estimator, with samples, not tokens, as what varies: tokens of a sample go together.
    """
    losses = TaskLosses.of(sums[0], sums[1])
    mean = losses.values
    scatter = np.maximum(sums[2] - 2 * mean * sums[3] + mean**2 * sums[4], 0.0)
    errors = np.sqrt(scatter) / np.where(losses.present, sums[1], np.nan)
    return replace(losses, standard_errors=errors)


def count_units(batches: Iterable[Batch], num_tasks: int, unit: Unit) -> Tensor:
    """[K] float64: units per task in ``batches`` (on the host). Samples without a supervised token do not count."""
    counts = np.zeros(num_tasks)
    for batch in batches:
        tasks = batch.supervised_tasks.numpy()
        if unit == "sample":
            _, first = np.unique(batch.sample_ids.numpy(), return_index=True)
            tasks = tasks[first]
        counts += np.bincount(tasks, minlength=num_tasks)
    return torch.from_numpy(counts)
