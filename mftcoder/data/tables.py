"""Rows of Parquet and Arrow files, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mftcoder.json_values import LONGEST_RECORD, too_long

_ROWS_AT_ONCE = 256


def row_group_pieces(path: Path, size: int) -> list[tuple[int, int | None, int]]:
    """A Parquet file in pieces of about ``size`` bytes.

    Of each: its first row group, the one behind its last (None: the end of the file), and the number of its first row.
    """
    from pyarrow.parquet import ParquetFile

    starts, taken, number = [(0, 1)], 0, 1
    with path.open("rb") as stream:
        metadata = ParquetFile(stream).metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            if taken and taken + group.total_byte_size > size:
                starts.append((index, number))
                taken = 0
            taken += group.total_byte_size
            number += group.num_rows
    stops = [start for start, _ in starts[1:]] + [None]
    return [(start, stop, first) for (start, first), stop in zip(starts, stops, strict=True)]


def table_rows(path: Path, start: int, stop: int | None, first: int) -> Iterator[tuple[str, Any]]:
    """The rows of a file, without nulls, and their places ("a.parquet:418"); of Parquet those of these row groups.

    ``first`` is the number of the first row. Raises MftcoderError at a row that is longer than a record may be, and
    what pyarrow raises for damaged files.
    """
    number = first
    for batch in _parquet_batches(path, start, stop) if path.suffix == ".parquet" else _arrow_batches(path):
        batch.validate(full=True)  # what is damaged would else end the process
        at_once = _rows_at_once(len(batch), batch.nbytes)
        for begin in range(0, len(batch), at_once):
            rows = batch.slice(begin, at_once)
            if rows.nbytes > LONGEST_RECORD:
                sizes = [rows.slice(index, 1).nbytes for index in range(len(rows))]
                if (largest := max(sizes)) > LONGEST_RECORD:
                    raise too_long(f"{path}:{number + sizes.index(largest)}", "leave it out, or divide it.")
            for row in rows.to_pylist():
                yield f"{path}:{number}", _without_nulls(row)
                number += 1


def _parquet_batches(path: Path, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    from pyarrow.parquet import ParquetFile

    with path.open("rb") as stream, ParquetFile(stream, page_checksum_verification=True) as file:
        for index in range(start, file.num_row_groups if stop is None else stop):
            group = file.metadata.row_group(index)
            yield from file.iter_batches(_rows_at_once(group.num_rows, group.total_byte_size), row_groups=[index])


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as stream:
        yield from pa.ipc.open_stream(stream)


def _rows_at_once(rows: int, size: int) -> int:
    """How many of ``rows`` together are a record of the greatest length, if they share ``size`` bytes alike."""
    return max(1, min(_ROWS_AT_ONCE, rows * LONGEST_RECORD // max(1, size)))


def _without_nulls(value: Any) -> Any:
    """A table gives each object in a column the keys of all of them: null stands for a key that the record lacks."""
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value
