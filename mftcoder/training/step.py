"""One optimizer step, all collectives of ours in view."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine, StepInfo
from mftcoder.losses.reductions import Reduction, Unit, count_units, mean_losses, moments
from mftcoder.losses.weighting import TaskLosses, TaskWeighting, Vector


@dataclass(frozen=True)
class StepResult:
    """What a step saw and did, the same on every rank."""

    totals: Vector  # [K] nats: T_i · l_i over all ranks and micro-batches
    units: Vector  # [K], T_i
    rows: Vector  # [K], trained on
    weights: Vector  # [K]: how much each task's l_i counted; with the denominator "epoch" in proportion to its units
    tokens: int  # without padding
    supervised_tokens: int
    pairs: int  # of a token and one that it attends to, itself among them
    router_loss: float  # of a mixture of experts, times its coefficient; else 0
    info: StepInfo
    asked: Vector = field(default_factory=lambda: np.zeros(0))  # what ``requests`` gave, summed over ranks

    @property
    def losses(self) -> TaskLosses:
        return TaskLosses.of(self.totals, self.units)

    @property
    def loss(self) -> float:
        """Σ weight_i · l_i, in nats."""
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
    reduction: Reduction,
    num_tasks: int,
    group: Group,
    expected_units: Vector | None = None,
    trains: NDArray[np.bool_] | None = None,
    requests: Callable[[], Sequence[float]] = tuple,
) -> StepResult:
    """Train on this rank's micro-batches of step ``step``. A step whose loss is not finite changes no weight.

    ``expected_units`` [K], the units of a mean step, take the place of this step's as denominators (and every task that
    has any then counts as present); None: ``"denominator": "step"``. Tasks that are not among ``trains`` [K] (default:
    all) count nothing. What ``requests`` gives, always as many numbers, goes along with the losses to all ranks.
    """
    assert batches, "every rank takes part in every step"
    counts = [count_units(batches, num_tasks, reduction.unit), _count_rows(batches, num_tasks), _count_tokens(batches)]
    counted = group.sum(torch.cat(counts)).cpu().numpy()
    units, rows, (tokens, supervised, pairs) = np.split(counted, [num_tasks, 2 * num_tasks])
    denominators = (units if expected_units is None else expected_units) * (1 if trains is None else trains)
    weights = weighting.weights(step, denominators)
    per_unit = np.divide(weights, denominators, out=np.zeros(num_tasks), where=denominators > 0)
    factors = torch.from_numpy(per_unit * reduction.sum_weights).to(group.device)
    seen, routers = torch.zeros_like(factors), torch.zeros(1, dtype=torch.float64, device=group.device)
    for number, host_batch in enumerate(batches, start=1):
        batch = host_batch.to(group.device)
        loss, sums, router_loss = _forward(engine, batch, reduction, factors)
        router_loss = router_loss * (_num_tokens(host_batch) / tokens)
        seen += sums
        routers += router_loss.detach()
        last = number == len(batches)
        if last:
            asked = torch.tensor(requests(), dtype=torch.float64).to(group.device)
            parts = [seen.flatten(), routers, asked]
            flat, routers, asked = group.sum(torch.cat(parts)).split([len(part) for part in parts])
            seen = flat.view_as(seen)
            # A loss that is not finite on any rank makes the whole gradient so, and the engine skips such a step.
            loss = loss * torch.where(torch.isfinite(seen).all(), 1.0, torch.nan)
        engine.backward(loss + router_loss, last=last)
    info = engine.step(learning_rate)
    summed = seen.cpu().numpy()
    result = StepResult(
        reduction.totals(summed, units),
        units,
        rows,
        per_unit * units,
        int(tokens),
        int(supervised),
        int(pairs),
        routers.item(),
        info,
        asked.cpu().numpy(),
    )
    if not info.skipped:
        reduction.observe(summed, units)
        weighting.observe("train", step, result.losses)
    return result


def _forward(engine: Engine, batch: Batch, reduction: Reduction, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A micro-batch's share of the step's loss [], its sums [C, K] without gradient, and the routers' loss [].

    ``factors`` [C, K] are how much each sum counts in the loss.
    """
    num_tasks = factors.shape[1]
    position_weights = reduction.position_weights(batch)
    if position_weights is not None:  # known before the forward pass, so the head makes its gradient in passing
        nll, loss, router_loss = engine(batch, position_weights * factors[0][batch.supervised_tasks])
        return loss, reduction.sums(nll.detach(), batch, num_tasks), router_loss
    nll, _, router_loss = engine(batch)
    sums = reduction.sums(nll, batch, num_tasks)
    return (factors * sums).sum().to(nll.dtype), sums.detach(), router_loss


@torch.no_grad()
def evaluate(engine: Engine, batches: Iterable[Batch], *, unit: Unit, num_tasks: int, group: Group) -> TaskLosses:
    """The mean NLL of each task over its tokens or samples, with its standard error, with dropout off.

    It is never focal, so that validation losses, and what follows from them, can be compared between runs. All ranks
    bring equally many ``batches``.
    """
    engine.train(False)
    seen = torch.zeros(5, num_tasks, dtype=torch.float64, device=group.device)
    for host_batch in batches:
        batch = host_batch.to(group.device)
        nll, *_ = engine(batch)
        seen += moments(nll, batch, num_tasks, unit)
    engine.train(True)
    return mean_losses(group.sum(seen).cpu().numpy())


@torch.no_grad()
def measure(
    engine: Engine, batches: Iterable[Batch], *, reduction: Reduction, num_tasks: int, group: Group
) -> TaskLosses:
    """The loss of each task under ``reduction`` over ``batches`` of all ranks. Changes nothing."""
    num_sums = len(reduction.sum_weights)
    seen = torch.zeros(num_sums + 1, num_tasks, dtype=torch.float64, device=group.device)
    for host_batch in batches:
        batch = host_batch.to(group.device)
        nll, *_ = engine(batch)
        units = count_units([host_batch], num_tasks, reduction.unit).to(group.device)
        seen += torch.cat([reduction.sums(nll, batch, num_tasks), units[None]])
    *sums, units = group.sum(seen).cpu().numpy()
    return TaskLosses.of(reduction.totals(np.stack(sums), units), units)


def _count_rows(batches: Sequence[Batch], num_tasks: int) -> Tensor:
    """[K] float64."""
    tasks = torch.cat([batch.task_ids[(batch.segment_ids > 0).any(dim=1)] for batch in batches])
    return torch.bincount(tasks, minlength=num_tasks).double()


def _count_tokens(batches: Sequence[Batch]) -> Tensor:
    """[3] float64: tokens without padding, supervised ones, and pairs of a token and one that it attends to."""
    supervised = sum(len(batch.targets) for batch in batches)
    counts = [sum(map(_num_tokens, batches)), supervised, sum(map(_num_pairs, batches))]
    return torch.tensor(counts, dtype=torch.float64)


def _num_pairs(batch: Batch) -> int:
    # Positions restart where attention does, so a token at position p attends to p + 1.
    return int(((batch.position_ids + 1) * (batch.segment_ids > 0)).sum())


def _num_tokens(batch: Batch) -> int:
    return int((batch.segment_ids > 0).sum())
