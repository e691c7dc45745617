"""Encoded samples on disk, neither cut to rows nor packed: of each part of the source files a file of its own.

::

    SAMPLES/3f0c….arrow     the samples of one part in reading order, written as they are encoded
    SAMPLES/3f0c….json      written last: counts and checksum; without it the part is not there

A file's name is a hash of all that its samples are a function of. So parts can be made in any order, by any process or
machine; one that is there never needs to be made again, and several configs can share a folder.
"""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mftcoder.config.schema import Config, Section, Task
from mftcoder.data.bad_records import BadRecord, as_lines
from mftcoder.data.encoding import EncodedRecords, Encoder, Record
from mftcoder.data.inputs import Inputs, Settings, SourceFile, TaskSource, file_hash, json_hash
from mftcoder.data.location import failures, located
from mftcoder.data.reading import Part, Refuse, parts
from mftcoder.data.shards import synced
from mftcoder.errors import MftcoderError

ENCODING_VERSION = 3  # to be raised by whoever changes what samples records become
BYTES_PER_PART = 16 * 2**20  # of a source file: seconds of work, so that a killed run loses little
_COUNTS = ".json"
_SECONDS_UNTIL_ABANDONED = 3600  # since something was last written


class EncodedPart(NamedTuple):
    """A part of a task's files, and the file of its encoded samples."""

    task: Task
    format: str
    source: Part
    contents: SourceFile  # of the source file, by which ``file`` is named
    file: Path
    held_out: bool  # its records are for validation


class PartCounts(Section):
    """What became of the records of a part, and what its file must be."""

    records: int
    dropped: dict[str, int]  # reason -> samples
    noted: dict[str, int]  # what happened -> to how many records
    bad: list[BadRecord]  # passed over
    size: int  # bytes of the file
    blake2b: str


def encoded_parts(config: Config, inputs: Inputs, folder: Path) -> list[list[EncodedPart]]:
    """The parts of each task's files in reading order, with their places in ``folder``."""
    made_with = [ENCODING_VERSION, inputs.tokenizer.hash, inputs.tokenizer.chat_template_hash]
    return named_parts(config, inputs, folder, made_with)


def named_parts(config: Config, inputs: Inputs, folder: Path, made_with: list[Any]) -> list[list[EncodedPart]]:
    """The parts of each task's files in reading order, with their places in ``folder`` if ``made_with`` all that."""
    return [
        [
            EncodedPart(
                task,
                source.format,
                part,
                file,
                folder / f"{_name(made_with, inputs.settings, source, file, part)}.arrow",
                held_out=file in source.held_out_files,
            )
            for file in source.all_files
            for part in parts(located(file.path), BYTES_PER_PART)
        ]
        for task, source in zip(config.data.tasks, inputs.tasks, strict=True)
    ]


def _name(made_with: list[Any], settings: Settings, source: TaskSource, file: SourceFile, part: Part) -> str:
    if source.fim:
        made_with = [*made_with, settings.seed, settings.sequence_length]
    return json_hash([*made_with, source.reading, file.blake2b, part.start, part.stop])


class Made(NamedTuple):
    """What was made of some records."""

    columns: pa.RecordBatch
    num_records: int  # without those that were passed over
    dropped: Counter[str]  # reason -> samples
    noted: Counter[str]  # what happened -> to how many records


class Maker(Protocol):
    """What makes parts of records: encoded samples, or what they are compared by."""

    doing: str  # for the news: what is done to records
    schema: pa.Schema

    def __call__(self, records: list[Record], part: EncodedPart, records_before: int, refuse: Refuse, /) -> Made:
        """Of ``records`` of ``part``, behind ``records_before`` others; what is bad goes to ``refuse``."""


def write_part(
    part: EncodedPart, batches: Iterable[Made], schema: pa.Schema, bad: Callable[[], list[BadRecord]]
) -> PartCounts:
    """Write what was made of ``part``. Whatever happens, the part is there whole or not at all.

    ``bad`` gives the records that were passed over, and is asked at the end. Raises MftcoderError if the source file
    has changed meanwhile.
    """
    num_records = 0
    dropped: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    descriptor, name = tempfile.mkstemp(".partial", part.file.stem, part.file.parent)
    aside = Path(name)
    try:
        with synced(open(descriptor, "wb"), part.file) as stream, pa.ipc.new_stream(stream, schema) as writer:
            for made in batches:
                writer.write_batch(made.columns)
                num_records += made.num_records
                dropped += made.dropped
                noted += made.noted
        written = PartCounts(
            records=num_records,
            dropped=dropped,
            noted=noted,
            bad=bad(),
            size=aside.stat().st_size,
            blake2b=file_hash(aside),
        )
        _refuse_changed(part)
        aside.replace(part.file)
        aside.write_text(written.model_dump_json())
        aside.replace(part.file.with_suffix(_COUNTS))
    finally:
        aside.unlink(missing_ok=True)
    return written


def _refuse_changed(part: EncodedPart) -> None:
    with failures(part.source.path, f"{part.source.path}: cannot be read"):
        if not part.contents.is_still(part.source.path):
            raise MftcoderError(
                f"{part.source.path}: has changed while it was tokenized. Tokenize again when nothing writes to it."
            )


def read_counts(part: EncodedPart) -> PartCounts | None:
    """The counts of ``part``; None if it was never made, or is no longer what was written. Reads the whole file."""
    try:
        counts = PartCounts.model_validate_json(part.file.with_suffix(_COUNTS).read_bytes())
        whole = part.file.stat().st_size == counts.size and file_hash(part.file) == counts.blake2b
    except (OSError, ValueError):
        return None
    return counts if whole else None


def bad_lines(made: Iterable[tuple[EncodedPart, PartCounts]]) -> Iterator[dict[str, str]]:
    """What is listed of the bad records of parts, in order."""
    for part, counts in made:
        yield from as_lines(part.task.name, part.source.path, counts.bad)


def find_parts(wanted: Iterable[EncodedPart]) -> dict[Path, PartCounts | None]:
    """The counts of all parts ``wanted``, by their files; None for those that are to be made."""
    distinct = {part.file: part for part in wanted}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(distinct, pool.map(read_counts, distinct.values()), strict=True))


def parts_in(folder: Path) -> list[Path]:
    """The files of all parts in ``folder``."""
    return [file for file in folder.glob("*.arrow") if re.fullmatch("[0-9a-f]{32}", file.stem)]


def remove_parts(files: Iterable[Path]) -> None:
    """Remove the parts in ``files``."""
    for file in files:
        file.with_suffix(_COUNTS).unlink(missing_ok=True)  # first what says that the part is there
        file.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove from ``folder`` what killed processes left half-written; another machine may be writing there now."""
    for file in folder.glob("*.partial"):
        if time.time() - file.stat().st_mtime > _SECONDS_UNTIL_ABANDONED:
            file.unlink(missing_ok=True)


class SampleMaker:
    """Encodes records."""

    doing = "tokenized"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.schema = _schema(encoder.num_ids)

    def __call__(self, records: list[Record], part: EncodedPart, records_before: int, refuse: Refuse, /) -> Made:
        """The samples of ``records``."""
        encoded = self.encoder(records, part.task, refuse)
        columns = _record_batch(encoded, records_before, part.source.path, self.schema)
        return Made(columns, encoded.counts["records"], encoded.dropped, encoded.noted)


def _schema(num_ids: int) -> pa.Schema:
    token = pa.uint16() if num_ids <= 2**16 else pa.int32()
    columns = {
        "input_ids": pa.list_(token),
        "supervised": pa.list_(pa.bool_()),
        "borders": pa.list_(pa.int32()),
        "record": pa.int64(),  # number within the part
        "place": pa.string(),  # behind the path of the source file: ":418"
        "group": pa.uint64(),
        "named": pa.bool_(),
    }
    return pa.schema([pa.field(name, type, nullable=False) for name, type in columns.items()])


def _record_batch(chunk: EncodedRecords, records_before: int, path: Path, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        lists([sample.input_ids for sample in chunk.samples], schema.field("input_ids").type.value_type),
        lists([sample.supervised for sample in chunk.samples], pa.bool_()),
        lists([sample.borders for sample in chunk.samples], pa.int32()),
        pa.array(np.array(chunk.numbers, np.int64) + records_before),
        pa.array([place.removeprefix(str(path)) for place in chunk.places], pa.string()),
        pa.array(chunk.groups),
        pa.array(chunk.named),
    ]
    return pa.record_batch(columns, schema=schema)


def lists(arrays: Sequence[NDArray], values: pa.DataType) -> pa.ListArray:
    """``arrays`` as a column of lists."""
    offsets = np.cumsum([0, *map(len, arrays)])
    dtype = values.to_pandas_dtype()
    flat = np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, values))
