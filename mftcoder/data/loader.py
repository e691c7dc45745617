"""The micro-batches of one optimizer step on one rank. The only state is the number of the step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mftcoder.data.batch import Batch, find_borders
from mftcoder.data.mixture import Mixture
from mftcoder.data.shards import Row, Rows


def collate(rows: Sequence[tuple[int, Row]], *, isolate_samples: bool, length: int | None = None) -> Batch:
    """A batch from (task id, row) pairs, padded on the right to ``length`` or else to the longest row.

    Without rows it gives one row of padding, for a rank that has no work but must take part in the forward pass.
    Padding restarts the positions, so it is a segment of its own and no other token sees it.
    """
    num_rows, width = max(1, len(rows)), length or max((len(row.input_ids) for _, row in rows), default=8)
    input_ids, segment_ids = np.zeros((num_rows, width), np.int64), np.zeros((num_rows, width), np.int64)
    position_ids = np.tile(np.arange(width), (num_rows, 1))
    supervised, targets, sample_ids, sample_keys = [], [], [], []
    num_samples = 0
    for b, (_, row) in enumerate(rows):
        used, lengths = len(row.input_ids), np.asarray(row.segment_lengths)
        ends = np.cumsum(lengths)
        segment = np.repeat(np.arange(len(lengths)), lengths)
        input_ids[b, :used] = row.input_ids
        segment_ids[b, :used] = segment + 1
        if isolate_samples:
            position_ids[b, :used] -= (ends - lengths)[segment]
        position_ids[b, used:] -= used
        target_at = np.flatnonzero(row.supervised)  # the shards never supervise a segment's first token
        supervised.append(b * width + target_at - 1)
        targets.append(np.asarray(row.input_ids)[target_at])
        sample_ids.append(num_samples + segment[target_at])
        sample_keys.append(row.sample_ids)
        num_samples += len(lengths)

    def joined(parts: list) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64))

    borders, longest = find_borders(position_ids)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        segment_ids=torch.from_numpy(segment_ids),
        position_ids=torch.from_numpy(position_ids),
        task_ids=torch.tensor([task for task, _ in rows] or [0], dtype=torch.int64),
        supervised=joined(supervised),
        targets=joined(targets),
        sample_ids=joined(sample_ids),
        sample_keys=joined(sample_keys),
        task_spans=tuple((task, len(its)) for (task, _), its in zip(rows, targets, strict=True)),
        borders=borders,
        longest=longest,
    )


@dataclass(frozen=True)
class Loader:
    """Cuts the rows of a step, or of a validation pass, into this rank's micro-batches.

    Rows are dealt out micro-batch by micro-batch, rank by rank. Every rank gets the same number of micro-batches, so
    that collectives inside the forward pass match; where rows run out, a rank's micro-batch is empty.
    """

    tasks: Sequence[Rows]  # rows of each task, in the order of the TaskSet
    rank: int
    num_ranks: int
    isolate_samples: bool
    length: int | None  # pad to this; None: to the longest row of the micro-batch

    def deal(self, rows: Sequence[tuple[int, int]], micro_rows: int) -> Iterator[Batch]:
        """This rank's micro-batches of ``rows``, given as (task id, row within the task)."""
        for start in range(0, len(rows), micro_rows * self.num_ranks):
            mine = rows[start + self.rank * micro_rows : start + (self.rank + 1) * micro_rows]
            read = [(task, self.tasks[task][row]) for task, row in mine]
            yield collate(read, isolate_samples=self.isolate_samples, length=self.length)


@dataclass(frozen=True)
class Schedule:
    """Which rows make up which optimizer step. Steps do not straddle epochs: an epoch's last step may be short."""

    mixture: Mixture
    rows_per_step: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.mixture) // self.rows_per_step)

    def rows(self, step: int) -> list[tuple[int, int]]:
        """(task id, row within the task) of every row of step ``step``, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        first = index * self.rows_per_step
        last = min(first + self.rows_per_step, len(self.mixture))
        return [self.mixture.row(epoch * len(self.mixture) + i) for i in range(first, last)]


def steps(
    loader: Loader, rows: Callable[[int], Sequence[tuple[int, int]]], micro_rows: int, numbers: Iterable[int]
) -> Iterator[list[Batch]]:
    """The micro-batches of the steps ``numbers``; the next step's are read while the caller works on this one's.

    ``rows`` gives the rows of a step, as ``Schedule.rows`` does; it is asked for a step just before the one before it
    is handed out.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader") as pool:
        ahead = None
        for number in numbers:
            following = pool.submit(lambda mine: list(loader.deal(mine, micro_rows)), rows(number))
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
