"""Packed rows on disk: Arrow stream files per task and split, which ``datasets.load_from_disk`` opens too.

::

    SHARDS/manifest.json                                 written last
    SHARDS/code/train/data-00000-of-00002.arrow          one Arrow row per packed row, in row order
    SHARDS/code/train/dataset_info.json  state.json      for datasets.load_from_disk
    SHARDS/code/probe/ …   SHARDS/code/validation/ …     when anything was held out
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mftcoder.data.copies import local_copy
from mftcoder.data.fitting import Encoded, Piece, Pieces, Samples, cut
from mftcoder.data.holdout import SPLITS
from mftcoder.data.inputs import FileEntry, file_hash, json_hash
from mftcoder.data.location import is_remote, located
from mftcoder.data.manifest import MANIFEST, Manifest
from mftcoder.data.packing import Layout
from mftcoder.errors import MftcoderError
from mftcoder.tasks import TaskSet

_COLUMNS = {"input_ids": "int32", "supervised": "uint8", "segment_lengths": "int32", "sample_ids": "int64"}
_SCHEMA = pa.schema([(name, pa.list_(pa.type_for_alias(dtype))) for name, dtype in _COLUMNS.items()])
_ROWS_PER_BATCH = 256

Verify = Literal["quick", "full"]


class Row(NamedTuple):
    """A packed row of L tokens in n segments; the arrays are read-only views of the file."""

    input_ids: NDArray[np.int32]  # [L]
    supervised: NDArray[np.bool_]  # [L]; never true of a segment's first token
    segment_lengths: NDArray[np.int32]  # [n], summing to L
    sample_ids: NDArray[np.int64]  # [n]; unique within the task


class Rows(Sequence[Row]):
    """The rows of one split of a task, memory-mapped. Cheap to pickle: another process maps the files anew."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    def __reduce__(self) -> tuple:
        return Rows, (self.files,)

    @cached_property
    def _batches(self) -> list[list[tuple[NDArray, NDArray]]]:
        """Of every record batch and column: list offsets and flat values."""
        return [
            [(column.offsets.to_numpy(), column.values.to_numpy()) for column in batch.columns]
            for file in self.files
            for batch in _record_batches(file)
        ]

    @cached_property
    def _batch_starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(columns[0][0]) - 1 for columns in self._batches)])

    def __len__(self) -> int:
        return int(self._batch_starts[-1])

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        batch = int(np.searchsorted(self._batch_starts, index, side="right")) - 1
        place = index - int(self._batch_starts[batch])
        ids, supervised, lengths, samples = (
            values[offsets[place] : offsets[place + 1]] for offsets, values in self._batches[batch]
        )
        return _checked(Row(ids, supervised.view(np.bool_), lengths, samples), self.files[0].parent, index)


def _record_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Those of an Arrow file, in memory that is mapped; MftcoderError if they are damaged as a whole."""
    try:
        with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
            if not stream.schema.equals(_SCHEMA):
                raise _damaged(file, f"its columns are {', '.join(stream.schema.names)}")
            for batch in stream:
                batch.validate()
                yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from error


def _checked(row: Row, folder: Path, index: int) -> Row:
    """``row``; MftcoderError if its parts do not fit each other, as where a byte of the file has changed."""
    ids, supervised, lengths, samples = row
    if not (
        len(ids) == len(supervised) == lengths.sum() and len(lengths) == len(samples) and lengths.min(initial=1) > 0
    ):
        raise _damaged(folder, f"tokens, mask, segments and samples of row {index} do not fit each other")
    if ids.min(initial=0) < 0:
        raise _damaged(folder, f"row {index} has a negative token id")
    return row


def _damaged(path: Path, what: str) -> MftcoderError:
    return MftcoderError(f"{path}: is damaged: {what}. Restore it, or tokenize again with --overwrite.")


class Shards:
    """A folder of complete shards, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tasks = TaskSet(tuple(task.name for task in manifest.tasks))

    @classmethod
    def open(cls, path: str | Path, verify: Verify = "quick") -> "Shards":
        """The shards in ``path``; if that is the URL of a remote folder, the copy of them on this host.

        Raises MftcoderError, naming the file, if one is missing or has another size than the manifest says ("quick"),
        or another checksum ("full", which reads everything).
        """
        folder, remedy = located(path), "Restore it, or tokenize again with --overwrite."
        if is_remote(folder):
            folder = local_copy(folder)
            remedy = f"Remove {folder}: it is copied anew."
        manifest = Manifest.read(folder)
        for entry in manifest.files:
            file = folder / entry.path
            if not file.is_file():
                raise MftcoderError(f"{file}: is missing. {remedy}")
            if (size := file.stat().st_size) != entry.size:
                raise MftcoderError(f"{file}: has {size} bytes; {entry.size} were written. {remedy}")
            if verify == "full" and file_hash(file) != entry.blake2b:
                raise MftcoderError(f"{file}: is damaged: its checksum is not {entry.blake2b}. {remedy}")
        return cls(folder, manifest)

    def rows(self, task: str, split: str = "train") -> Rows:
        """The rows of a split (train, probe or validation) of ``task``; none if the split is empty."""
        if split not in SPLITS.values():
            raise MftcoderError(f'there is no split "{split}"; the splits are {", ".join(SPLITS.values())}.')
        entries = self.manifest.task(task).splits
        files = entries[split].files if split in entries else []
        rows = Rows([self.folder / entry.path for entry in files if entry.path.endswith(".arrow")])
        if len(rows) != (wanted := entries[split].rows if split in entries else 0):
            raise _damaged(self.folder / task / split, f"it has {len(rows)} rows; {wanted} were written")
        return rows


@contextmanager
def synced(stream: BinaryIO, name: Path) -> Iterator[BinaryIO]:
    """``stream``, closed and on the disk when the block ends; what goes wrong on the disk names ``name``."""
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(name)) from error


def _new(file: Path) -> AbstractContextManager[BinaryIO]:
    return synced(file.open("xb"), file)


def write_rows(
    folder: Path,
    name: str,
    samples: Samples,
    pieces: Pieces,
    ids: NDArray[np.int64],
    layout: Layout,
    bytes_per_file: int,
) -> tuple[list[FileEntry], int]:
    """Write the rows ``layout`` of the P ``pieces`` of ``samples``, called ``ids`` [P], into ``folder``/``name``.

    Gives the files, synced to disk, and the number of supervised tokens in them.
    """
    target = folder / name
    target.mkdir(parents=True)
    num_rows = len(layout.row_starts) - 1
    size = 5 * int(pieces.lengths[layout.order].sum()) + 12 * len(layout.order)
    num_files = min(num_rows, -(-size // bytes_per_file))
    names = [f"data-{number:05d}-of-{num_files:05d}.arrow" for number in range(num_files)]
    bounds = np.linspace(0, num_rows, num_files + 1).astype(int)
    supervised_tokens = 0
    for file, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        with _new(target / file) as stream, pa.ipc.new_stream(stream, _SCHEMA) as writer:
            for start in range(first, last, _ROWS_PER_BATCH):
                segments_of = layout.row_starts[start : min(start + _ROWS_PER_BATCH, last) + 1]
                chosen = layout.order[segments_of[0] : segments_of[-1]]
                columns = (column[chosen].tolist() for column in pieces)
                segments = [cut(samples[number], Piece(*cuts)) for number, *cuts in zip(*columns, strict=True)]
                batch = _record_batch(segments, ids[chosen], segments_of - segments_of[0])
                supervised_tokens += sum(int(segment.supervised.sum()) for segment in segments)
                writer.write_batch(batch)
    for file, content in _datasets_files(names).items():
        with _new(target / file) as stream:
            stream.write(json.dumps(content, indent=2).encode())
    files = [FileEntry.of(target / file, f"{name}/{file}") for file in [*names, "dataset_info.json", "state.json"]]
    return files, supervised_tokens


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete the shards in ``folder``."""
    aside = folder / f"{MANIFEST}.partial"
    with _new(aside) as stream:
        stream.write(manifest.model_dump_json(indent=2).encode())
    aside.replace(folder / MANIFEST)


def _record_batch(segments: list[Encoded], ids: NDArray[np.int64], row_starts: NDArray[np.int64]) -> pa.RecordBatch:
    """Rows of ``segments`` [n], called ``ids`` [n]: row r begins with segment ``row_starts[r]``."""
    lengths = np.array([len(segment.input_ids) for segment in segments], np.int32)
    token_starts = np.concatenate([[0], np.cumsum(lengths)])[row_starts]
    columns = [
        (token_starts, np.concatenate([segment.input_ids for segment in segments])),
        (token_starts, np.concatenate([segment.supervised for segment in segments]).view(np.uint8)),
        (row_starts, lengths),
        (row_starts, ids),
    ]
    return pa.record_batch(
        [pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(values)) for starts, values in columns],
        schema=_SCHEMA,
    )


def _datasets_files(names: list[str]) -> dict[str, dict]:
    """What ``datasets.load_from_disk`` wants beside the Arrow files."""
    features = {
        name: {"feature": {"dtype": dtype, "_type": "Value"}, "_type": "List"} for name, dtype in _COLUMNS.items()
    }
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": json_hash(names),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    return {"dataset_info.json": {"citation": "", "description": "", "features": features}, "state.json": state}
