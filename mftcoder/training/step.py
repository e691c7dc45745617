"""One optimizer step, all collectives of ours in view."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine, StepInfo
from mftcoder.losses.sums import REDUCTIONS, coefficients, count_units, task_totals
from mftcoder.losses.weighting import TaskLosses, TaskWeighting, Vector


@dataclass(frozen=True)
class StepResult:
    """What a step saw and did, the same on every rank."""

    totals: Vector  # [K] nats, summed over all ranks and micro-batches
    units: Vector  # [K]
    weights: Vector  # [K] of the tasks present
    tokens: int  # without padding
    supervised_tokens: int
    info: StepInfo

    @property
    def losses(self) -> TaskLosses:
        return TaskLosses.of(self.totals, self.units)

    @property
    def loss(self) -> float:
        """Σ a_i · S_i / T_i, in nats."""
        return (
            float(self.weights @ np.nan_to_num(self.losses.values)) if np.isfinite(self.totals).all() else float("nan")
        )


def train_step(
    engine: Engine,
    batches: Sequence[Batch],
    weighting: TaskWeighting,
    *,
    step: int,
    learning_rate: float,
    reduction: str,
    num_tasks: int,
    group: Group,
) -> StepResult:
    """Train on this rank's micro-batches of step ``step``. A step whose loss is not finite changes no weight."""
    assert batches, "every rank takes part in every step"
    counted = group.sum(torch.cat([count_units(batches, num_tasks, reduction), _count_tokens(batches)]))
    units = counted[:num_tasks]
    weights = torch.from_numpy(weighting.weights(step, units.cpu().numpy())).to(group.device)
    totals = torch.zeros(num_tasks, dtype=torch.float64, device=group.device)
    for number, host_batch in enumerate(batches, start=1):
        batch = host_batch.to(group.device)
        unit_weights = REDUCTIONS[reduction](batch)
        share = coefficients(unit_weights, batch, weights, units)
        nll, loss = engine(batch, share)
        totals += task_totals(nll, unit_weights, batch, num_tasks)
        last = number == len(batches)
        if last:
            totals = group.sum(totals)
            # A loss that is not finite on any rank makes the whole gradient so, and the engine skips such a step.
            loss = loss * torch.where(torch.isfinite(totals).all(), 1.0, torch.nan)
        engine.backward(loss, last=last)
    info = engine.step(learning_rate)
    tokens, supervised = (int(n) for n in counted[num_tasks:])
    result = StepResult(totals.cpu().numpy(), units.cpu().numpy(), weights.cpu().numpy(), tokens, supervised, info)
    if not info.skipped:
        weighting.observe("train", step, result.losses)
    return result


@torch.no_grad()
def evaluate(engine: Engine, batches: Iterable[Batch], *, reduction: str, num_tasks: int, group: Group) -> TaskLosses:
    """The loss of each task over ``batches`` of all ranks, with dropout off. All ranks bring equally many batches."""
    engine.train(False)
    totals = torch.zeros(num_tasks, dtype=torch.float64, device=group.device)
    units = torch.zeros(num_tasks, dtype=torch.float64)
    for host_batch in batches:
        batch = host_batch.to(group.device)
        nll, _ = engine(batch)
        totals += task_totals(nll, REDUCTIONS[reduction](batch), batch, num_tasks)
        units += count_units([host_batch], num_tasks, reduction)
    engine.train(True)
    summed = group.sum(torch.cat([totals.cpu(), units])).cpu().numpy()
    return TaskLosses.of(summed[:num_tasks], summed[num_tasks:])


def _count_tokens(batches: Sequence[Batch]) -> torch.Tensor:
    """[2] float64: tokens without padding, and supervised ones."""
    tokens = sum(int((batch.segment_ids > 0).sum()) for batch in batches)
    return torch.tensor([tokens, sum(len(batch.targets) for batch in batches)], dtype=torch.float64)
