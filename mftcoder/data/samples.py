"""The encoded samples of a task, memory-mapped: the same for every length of rows."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mftcoder.data.fitting import Encoded
from mftcoder.data.parts import EncodedPart, PartCounts

_READS_BETWEEN_RELEASES = 32  # each maps up to 64 KiB of the file and as much again for the mask


class TaskSamples(Sequence[Encoded]):
    """The N encoded samples of a task in reading order.

    In memory are a few numbers of each; tokens are read when a sample is asked for.
    """

    lengths: NDArray[np.int32]  # [N] tokens
    records: NDArray[np.int64]  # [N] number of each one's record within the task
    groups: NDArray[np.uint64]  # [N] hashes; equal for samples that must stay in one split
    named: NDArray[np.bool_]  # [N] whether the record itself named its group
    held_out: NDArray[np.bool_]  # [N] whether it is from a file of records for validation

    def __init__(self, parts: Sequence[EncodedPart], counts: Sequence[PartCounts]) -> None:
        self._maps = [_map(part.file) for part in parts]
        self._batches: list[_Batch] = []
        numbers = [_numbers_of_none()]
        first_record = 0
        for part, count, mapped in zip(parts, counts, self._maps, strict=True):
            for batch in pa.ipc.open_stream(pa.py_buffer(mapped)):
                self._batches.append(_Batch.of(batch, part.source.path))
                numbers.append(_numbers(batch, first_record, part.held_out))
            mapped.madvise(mmap.MADV_DONTNEED)  # else all that was ever read would count as this process's memory
            first_record += count.records
        columns = [np.concatenate(arrays) for arrays in zip(*numbers, strict=True)]
        self.lengths, self.records, self.groups, self.named, self.held_out = columns
        self._kept = np.arange(len(self.lengths))
        self._batch_starts = np.cumsum([0, *(len(batch.places) for batch in self._batches)])
        self._reads = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def keep(self, chosen: NDArray[np.int64]) -> None:
        """Forget all samples but those ``chosen``, ascending, which are numbered anew."""
        self._kept = self._kept[chosen]
        self.lengths, self.records = self.lengths[chosen], self.records[chosen]
        self.groups, self.named, self.held_out = self.groups[chosen], self.named[chosen], self.held_out[chosen]

    def __getitem__(self, index: int) -> Encoded:  # type: ignore[override]
        batch, place = self._find(index)
        self._reads += 1
        if self._reads % _READS_BETWEEN_RELEASES == 0:
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        return batch.sample(place)

    def place(self, index: int) -> str:
        """Where the record of a sample stands, as in errors: ``tasks/a.jsonl:418``."""
        batch, place = self._find(index)
        return f"{batch.path}{batch.places[place]}"

    def _find(self, index: int) -> "tuple[_Batch, int]":
        place = int(self._kept[index])
        number = int(np.searchsorted(self._batch_starts, place, side="right")) - 1
        return self._batches[number], place - int(self._batch_starts[number])


class _Batch(NamedTuple):
    """The n samples of a record batch: views of the file."""

    path: Path  # of the source file
    places: pa.StringArray  # [n] behind it
    offsets: NDArray[np.int32]  # [n + 1] into tokens
    input_ids: NDArray[np.integer]
    supervised: NDArray[np.uint8]  # eight tokens a byte, the lowest bit first
    border_offsets: NDArray[np.int32]  # [n + 1]
    borders: NDArray[np.int32]

    @classmethod
    def of(cls, batch: pa.RecordBatch, path: Path) -> "_Batch":
        ids, supervised, borders = (batch.column(name) for name in ("input_ids", "supervised", "borders"))
        bits = supervised.values.buffers()[1]
        return cls(
            path,
            batch.column("place"),
            ids.offsets.to_numpy(),
            ids.values.to_numpy(),
            np.frombuffer(bits, np.uint8),
            borders.offsets.to_numpy(),
            borders.values.to_numpy(),
        )

    def sample(self, index: int) -> Encoded:
        start, stop = self.offsets[index : index + 2].tolist()
        bits = np.unpackbits(self.supervised[start // 8 : -(-stop // 8)], bitorder="little")
        supervised = bits[start % 8 : start % 8 + stop - start].view(np.bool_)
        first, last = self.border_offsets[index : index + 2].tolist()
        return Encoded(self.input_ids[start:stop].astype(np.int32), supervised, self.borders[first:last])


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _numbers(batch: pa.RecordBatch, first_record: int, held_out: bool) -> tuple[NDArray, ...]:
    """Copies, as the columns of ``TaskSamples``."""
    return (
        np.diff(batch.column("input_ids").offsets.to_numpy()),
        batch.column("record").to_numpy() + first_record,
        batch.column("group").to_numpy().copy(),
        batch.column("named").to_numpy(zero_copy_only=False),
        np.full(batch.num_rows, held_out),
    )


def _numbers_of_none() -> tuple[NDArray, ...]:
    return tuple(np.zeros(0, dtype) for dtype in (np.int32, np.int64, np.uint64, np.bool_, np.bool_))
