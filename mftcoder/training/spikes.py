"""Losses that jump: which task, how far above its usual level, and which samples to look at."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine
from mftcoder.losses.weighting import TaskLosses

WINDOW = 64  # steps in which a task was present, for its usual level
FEWEST = 20  # before that nothing counts as a spike
DEVIATIONS = 6.0  # robust standard deviations above the usual level …
RATIO = 1.3  # … and times that level
PER_STANDARD_DEVIATION = 1.4826  # of a normal distribution, by its median absolute deviation
STEPS_BETWEEN_WARNINGS = 20  # to look at the samples costs a forward pass
NUM_SAMPLES = 5


@dataclass(frozen=True)
class Spike:
    """A loss of task number ``task`` that is far above its usual level."""

    task: int
    loss: float
    usual: float  # what the last steps lead to expect


class SpikeWatch:
    """Knows the usual level of each task's loss, and how far it scatters, by medians, which spikes hardly move."""

    def __init__(self, num_tasks: int) -> None:
        self._recent: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(num_tasks)]
        self._warned_at: int | None = None

    def observe(self, step: int, losses: TaskLosses) -> list[Spike]:
        """The spikes of ``step`` to warn of; none within ``STEPS_BETWEEN_WARNINGS`` of the last warning."""
        spikes = []
        for task, recent in enumerate(self._recent):
            loss = float(losses.values[task])
            if not losses.present[task] or not np.isfinite(loss):
                continue
            if len(recent) >= FEWEST:
                usual, spread = _level(np.array(recent))
                if loss > max(usual + DEVIATIONS * spread, RATIO * usual):
                    spikes.append(Spike(task, loss, usual))
            recent.append(loss)
        if not spikes or (self._warned_at is not None and step - self._warned_at < STEPS_BETWEEN_WARNINGS):
            return []
        self._warned_at = step
        return spikes

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values."""
        return {"recent": [list(recent) for recent in self._recent], "warned_at": self._warned_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self._recent = [deque(recent, maxlen=WINDOW) for recent in state["recent"]]
        self._warned_at = state["warned_at"]


def _level(recent: NDArray[np.float64]) -> tuple[float, float]:
    """The loss to expect next, and the standard deviation around it, of a loss that stays or falls.

    Around Tukey's resistant line, through the medians of the first and the last third: around a constant, a falling
    loss would scatter so much that no sample could stand out of it.
    """
    third, steps = len(recent) // 3, np.arange(len(recent))
    first, last = np.median(recent[:third]), np.median(recent[-third:])
    slope = min(0.0, float(last - first) / (len(recent) - third))
    apart = recent - slope * steps
    middle = float(np.median(apart))
    spread = PER_STANDARD_DEVIATION * float(np.median(np.abs(apart - middle)))
    return max(0.0, middle + slope * len(recent)), spread


@torch.no_grad()
def worst_samples(engine: Engine, batches: Sequence[Batch], tasks: Sequence[int], group: Group) -> dict[int, list[int]]:
    """Of each of ``tasks``, the ids of the samples of this step with the highest mean NLL, the worst first.

    One forward pass without dropout, with the weights as they are now. One that is not finite is worse than any other.
    Collective.
    """
    engine.train(False)
    found: list[tuple[int, float, int]] = []  # task, mean NLL, id
    for host_batch in batches:
        nll, *_ = engine(host_batch.to(group.device))
        found += _sample_losses(nll.cpu(), host_batch, tasks)
    engine.train(True)
    # As a set, since ranks that share their rows bring the same.
    everywhere = sorted({entry for part in group.gather(_worst(found, tasks)) for entry in part})
    return {task: [key for of, _, key in _worst(everywhere, [task])] for task in tasks}


def _sample_losses(nll: torch.Tensor, batch: Batch, tasks: Sequence[int]) -> list[tuple[int, float, int]]:
    num_samples = len(batch.sample_keys)
    totals = torch.zeros(num_samples, dtype=torch.float64).index_add_(0, batch.sample_ids, nll.double())
    counts = torch.bincount(batch.sample_ids, minlength=num_samples)
    task_of = torch.full((num_samples,), -1).scatter_(0, batch.sample_ids, batch.supervised_tasks)
    means = torch.nan_to_num(totals / counts.clamp(min=1), nan=float("inf"))
    wanted = [number for number in range(num_samples) if int(task_of[number]) in tasks]  # -1: nothing is supervised
    return [(int(task_of[n]), float(means[n]), int(batch.sample_keys[n])) for n in wanted]


def _worst(found: Sequence[tuple[int, float, int]], tasks: Sequence[int]) -> list[tuple[int, float, int]]:
    worst = []
    for task in tasks:
        ordered = sorted((entry for entry in found if entry[0] == task), key=lambda entry: (-entry[1], entry[2]))
        worst += ordered[:NUM_SAMPLES]
    return worst
