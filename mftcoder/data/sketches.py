"""What samples are compared by, made of records as the encoded samples are: part by part, and kept beside them."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mftcoder.config.schema import Config, Filters
from mftcoder.data.encoding import Record
from mftcoder.data.filters.benchmarks import Benchmarks, Hit
from mftcoder.data.filters.compared import compared_texts, content_hash, read_benchmarks
from mftcoder.data.filters.duplicates import Sketches
from mftcoder.data.filters.minhash import Shingles, shingles, sign
from mftcoder.data.inputs import Inputs
from mftcoder.data.parts import EncodedPart, Made, lists, named_parts
from mftcoder.data.reading import Refuse

SKETCHING_VERSION = 1  # to be raised by whoever changes what sketches records become
_SCHEMA = pa.schema(
    [
        ("place", pa.string()),  # behind the path of the source file: ":418"
        ("exact", pa.uint64()),
        ("bands", pa.list_(pa.uint32())),
        ("low_bytes", pa.list_(pa.uint8())),
        ("shingles", pa.list_(pa.uint32())),
        ("reason", pa.string()),  # why the record is in a benchmark; empty: it is not
        ("item", pa.string()),  # place of the benchmark's item
        ("score", pa.float64()),
    ]
)


def sketch_parts(config: Config, inputs: Inputs, folder: Path) -> list[list[EncodedPart]]:
    """The parts of each task's files in reading order, with the places of their sketches in ``folder``."""
    filters = config.data.filters
    assert filters
    settings = filters.model_dump(exclude={"duplicates", "leakage", "benchmarks"})
    benchmarks = [(file.path, file.blake2b) for file in inputs.benchmarks]
    fields = [benchmark.field for benchmark in filters.benchmarks]
    return named_parts(config, inputs, folder, ["sketches", SKETCHING_VERSION, settings, benchmarks, fields])


class SketchMaker:
    """Sketches records. Cheap to pickle: another process reads the benchmarks anew."""

    doing = "sketched"
    schema = _SCHEMA

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def __reduce__(self) -> tuple:
        return SketchMaker, (self._filters,)

    @cached_property
    def benchmarks(self) -> Benchmarks:
        """The items of all benchmarks; raises MftcoderError if one has none, or none with the field asked for."""
        return read_benchmarks(self._filters, "data.filters.benchmarks")

    def __call__(self, records: list[Record], part: EncodedPart, records_before: int, refuse: Refuse, /) -> Made:
        """The sketches of ``records``."""
        similarity = self._filters.similarity
        sets = [np.zeros(0, np.uint32)] * len(records)
        bands, low_bytes = np.zeros((len(records), 0), np.uint32), np.zeros((len(records), 0), np.uint8)
        if similarity is not None:
            sets = shingles(["\n".join(compared_texts(record, self._filters.compare)) for record in records])
            bands, low_bytes = sign(sets, similarity)
        found = self._in_benchmarks(records)
        columns = [
            pa.array([record.where.removeprefix(str(part.source.path)) for record in records]),
            pa.array([content_hash(record, self._filters) for record in records], pa.uint64()),
            lists(list(bands), pa.uint32()),
            lists(list(low_bytes), pa.uint8()),
            lists(sets, pa.uint32()),
            pa.array([hit.reason if hit else "" for hit in found]),
            pa.array([self.benchmarks.items[hit.item].place if hit else "" for hit in found]),
            pa.array([hit.score if hit else 0.0 for hit in found]),
        ]
        return Made(pa.record_batch(columns, schema=_SCHEMA), len(records), Counter(), Counter())

    def _in_benchmarks(self, records: list[Record]) -> list[Hit | None]:
        """For each record what one of its messages shares with a benchmark's item."""
        texts = [compared_texts(record, "all") for record in records]
        hits = iter(self.benchmarks.find([text for some in texts for text in some]) if self._filters.benchmarks else ())
        return [next(filter(None, [next(hits, None) for _ in some]), None) for some in texts]


class InBenchmark(NamedTuple):
    """What a sample shares with an item of a benchmark."""

    reason: str  # ngram or bleu
    item: str  # its place
    score: float


class TaskSketches(NamedTuple):
    """What the N samples of a task are compared by."""

    sketches: Sketches
    in_benchmarks: dict[int, InBenchmark]  # by number of the sample
    place: Callable[[int], str]  # of a sample's record, as errors name it
    for_validation: NDArray[np.bool_]  # [N] whether the sample is from a file of records for validation

    @classmethod
    def read(cls, samples: Sequence[EncodedPart], sketches: Sequence[EncodedPart]) -> "TaskSketches":
        """Those of the samples in the parts ``samples``; a record may have a sketch in ``sketches`` but no sample."""
        tables = [_mapped(part.file) for part in sketches]
        firsts = np.cumsum([0, *map(len, tables)])
        rows = np.concatenate(
            [
                pc.index_in(_mapped(part.file).column("place"), value_set=table.column("place")).to_numpy() + first
                for part, table, first in zip(samples, tables, firsts, strict=False)
            ]
        )
        table = pa.concat_tables(tables)
        bands, low_bytes = (
            np.concatenate([chunk.flatten().to_numpy() for chunk in table.column(name).chunks]).reshape(len(table), -1)
            for name in ("bands", "low_bytes")
        )
        hits = np.flatnonzero(pc.not_equal(table.column("reason"), "").to_numpy()[rows])
        found = table.select(["reason", "item", "score"]).take(rows[hits]).to_pylist()
        places = table.column("place")

        def place(sample: int) -> str:
            part = int(np.searchsorted(firsts, rows[sample], side="right")) - 1
            return f"{sketches[part].source.path}{places[int(rows[sample])]}"

        return cls(
            Sketches(
                table.column("exact").to_numpy()[rows],
                bands[rows],
                low_bytes[rows],
                _ShinglesOnDisk(table.column("shingles").chunks, rows),
            ),
            {sample: InBenchmark(**one) for sample, one in zip(hits.tolist(), found, strict=True)},
            place,
            np.array([part.held_out for part in sketches])[np.searchsorted(firsts, rows, side="right") - 1],
        )


class _ShinglesOnDisk:
    """The shingles of N samples, read when they are asked for."""

    def __init__(self, chunks: list[pa.ListArray], rows: NDArray[np.int64]) -> None:
        self._chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]
        self._firsts = np.cumsum([0, *map(len, chunks)])
        self._rows = rows

    def __call__(self, sample: int) -> Shingles:
        row = self._rows[sample]
        chunk = int(np.searchsorted(self._firsts, row, side="right")) - 1
        offsets, values = self._chunks[chunk]
        start, stop = offsets[row - self._firsts[chunk] : row - self._firsts[chunk] + 2]
        return values[start:stop]


def _mapped(file: Path) -> pa.Table:
    return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
