"""Which row comes when: a pure function of (seed, position), with random access.

Positions count rows from the start of training, over all ranks. Every epoch holds the same number of rows of each task,
in an order of its own. A task goes through all of its rows before it repeats one, each time in a new order, whether an
epoch holds half of its rows or ten times all of them. Nothing here knows of ranks, so the order is the same on any
number of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mftcoder.config.schema import EqualSampling, GivenSampling, Sampling, TemperatureSampling, WeightedSampling
from mftcoder.data.permutation import permutation


@dataclass(frozen=True)
class Mixture:
    """The rows of all tasks, shuffled together once per epoch.

    Attributes:
        rows_per_task: how many there are.
        rows_per_epoch: how many of each task an epoch holds; default: every row once, which is proportional sampling.
    """

    rows_per_task: tuple[int, ...]
    seed: int
    rows_per_epoch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows_per_epoch", self.rows_per_epoch or self.rows_per_task)

    def __len__(self) -> int:
        """Rows per epoch."""
        return sum(self.rows_per_epoch)

    def row(self, position: int) -> tuple[int, int]:
        """The (task id, row within the task) at ``position``."""
        epoch, offset = divmod(position, len(self))
        tasks, rows = _order(self, epoch)
        return int(tasks[offset]), int(rows[offset])

    @property
    def passes_per_epoch(self) -> NDArray[np.float64]:
        """[K]: how often an epoch holds each row of a task, on average."""
        return np.array(self.rows_per_epoch) / np.array(self.rows_per_task)


@lru_cache(maxsize=2)
def _order(mixture: Mixture, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Task ids and rows of an epoch, in order."""
    counts = mixture.rows_per_epoch
    tasks = np.repeat(np.arange(len(counts)), counts)[permutation(len(mixture), mixture.seed, epoch)]
    rows = np.empty(len(mixture), np.int64)
    for task, (count, num_rows) in enumerate(zip(counts, mixture.rows_per_task, strict=True)):
        rows[tasks == task] = _draws(num_rows, epoch * count, count, mixture.seed, task)
    return tasks, rows


def _draws(num_rows: int, first: int, count: int, *key: int) -> NDArray[np.int64]:
    """[count]: the rows that a task gives from its ``first`` draw on."""
    passes = range(first // num_rows, -(-(first + count) // num_rows))
    orders = [permutation(num_rows, *key, number) for number in passes]
    return np.concatenate(orders)[first % num_rows :][:count]


def make_mixture(sampling: Sampling, rows_per_task: Mapping[str, int], seed: int) -> Mixture:
    """The mixture that ``sampling`` asks for. Epochs have as many rows as there are, whatever the shares.

    With "weighted" sampling, which deals out rows itself, it is the proportional one and tells the length of an epoch.
    """
    rows = np.array(list(rows_per_task.values()))
    match sampling:
        case TemperatureSampling(temperature=temperature):
            shares = rows ** (1 / temperature)
        case GivenSampling(shares=given):
            shares = np.array([given[name] for name in rows_per_task])
        case EqualSampling():
            shares = np.ones(len(rows))
        case _:
            return Mixture(tuple(rows_per_task.values()), seed)
    most = rows * sampling.max_passes if sampling.max_passes else np.full(len(rows), np.inf)
    return Mixture(tuple(rows_per_task.values()), seed, apportion(int(rows.sum()), shares, most))


def epoch_note(sampling: Sampling, tasks: Iterable[str], mixture: Mixture) -> str:
    """What an epoch holds of every task, in words."""
    if isinstance(sampling, WeightedSampling):
        return f"an epoch has {len(mixture):,} rows; how many of each task, their weights decide"
    if mixture.rows_per_epoch == mixture.rows_per_task:
        return f"an epoch has {len(mixture):,} rows: every row once"
    parts = (
        f"{name} {rows:,} ({passes:.2f} passes)"
        for name, rows, passes in zip(tasks, mixture.rows_per_epoch, mixture.passes_per_epoch, strict=True)
    )
    return f"an epoch has {len(mixture):,} rows: {', '.join(parts)}"


def apportion(total: int, shares: NDArray[np.float64], most: NDArray[np.float64]) -> tuple[int, ...]:
    """``total`` divided in proportion to ``shares`` [K] > 0 into whole numbers: at least 1, at most ⌊``most``⌋ [K].

    What a bound takes from a task or gives to it, the others share in proportion. Each number is its exact quota,
    rounded up or down (method of the largest remainders). ``total`` must lie between K and the sum of ⌊``most``⌋.
    """
    most = np.minimum(np.floor(most), total)
    low, high = 0.0, total / float(shares.min())
    while (middle := (low + high) / 2) not in (low, high):  # bisection, down to neighbouring floats
        low, high = (middle, high) if np.clip(middle * shares, 1, most).sum() < total else (low, middle)
    quotas = np.clip(high * shares, 1, most)
    whole = np.floor(quotas)
    whole[np.argsort(whole - quotas, kind="stable")[: total - int(whole.sum())]] += 1
    return tuple(int(number) for number in whole)
