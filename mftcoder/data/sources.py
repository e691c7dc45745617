"""Task files: finding them and reading raw records out of them, each with the place it came from."""

import bz2
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TextIO

import zstandard

from mftcoder.config.schema import Task
from mftcoder.errors import MftcoderError

_COMPRESSIONS = ("", ".gz", ".bz2", ".zst")
_DEEPEST = 100  # lists and objects in each other: far from where the libraries that see a record stop recursing
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = f"lists and objects are nested more than {_DEEPEST} deep. Flatten them."
SUFFIXES = (*(f".{kind}{packed}" for kind in ("jsonl", "json") for packed in _COMPRESSIONS), ".parquet")


def source_files(task: Task) -> list[Path]:
    """The files of a task: entries of ``path`` in their order, folders (recursively) and globs sorted.

    Raises MftcoderError if an entry names nothing, or a file of an unknown kind, or a file twice.
    """
    files: list[Path] = []
    for entry in [task.path] if isinstance(task.path, str) else task.path:
        for file in _expand(entry, f'data.tasks "{task.name}"'):
            if file in files:
                raise MftcoderError(f'data.tasks "{task.name}": {file} is named twice. List it once.')
            files.append(file)
    return files


def _expand(entry: str, where: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    elif path.is_file():
        found = [path]
    elif has_magic(entry):
        found = sorted(file for file in map(Path, glob(entry, recursive=True)) if file.is_file())
    else:
        raise MftcoderError(f"{where}: path {entry} does not exist. Correct the path.")
    if not found:
        raise MftcoderError(f"{where}: path {entry} holds no file. Record files end with {', '.join(SUFFIXES)}.")
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise MftcoderError(f"{where}: {file} is of no known kind. Record files end with {', '.join(SUFFIXES)}.")
    return found


def read_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of one file with their places ("tasks/a.jsonl:418"); keys whose value is null are left out.

    Raises MftcoderError for broken or truncated files, and for files without a record.
    """
    empty = True
    with _reading(path):
        for where, record in _raw_records(path):
            if not isinstance(record, dict):
                raise MftcoderError(f"{where}: a record must be a JSON object; found {type(record).__name__}.")
            check_values(record, where)
            empty = False
            yield where, {key: value for key, value in record.items() if value is not None}
    if empty:
        raise MftcoderError(f"{path}: no record found. Remove the file or fill it.")


def parse_json(text: str, where: str) -> Any:
    """The value that ``text`` spells; MftcoderError that begins with ``where`` if it is not valid JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        raise MftcoderError(f"{where}: {_TOO_DEEP}") from None
    except ValueError as error:  # a JSONDecodeError, or an integer of too many digits
        raise MftcoderError(f"{where}: not valid JSON: {error}.") from error


def check_values(value: Any, where: str) -> None:
    """MftcoderError that begins with ``where`` if ``value`` holds half a character or is nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):
        for text in level:
            if isinstance(text, str) and (found := _SURROGATE.search(text)):
                raise MftcoderError(
                    f"{where}: holds a lone surrogate, {json.dumps(found[0])}: half of a character, as when an emoji "
                    "is cut in two. Remove it, or write the whole character."
                )
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in ([*node, *node.values()] if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise MftcoderError(f"{where}: {_TOO_DEEP}")


def _raw_records(path: Path) -> Iterator[tuple[str, Any]]:
    if path.name.endswith(".parquet"):
        yield from _parquet_records(path)
        return
    with _open_text(path) as stream:
        may_be_array = path.name.removesuffix(path.suffix if path.suffix in _COMPRESSIONS else "").endswith(".json")
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            if may_be_array and line.lstrip().startswith("["):
                array = parse_json(line + stream.read(), str(path))
                yield from ((f"{path}[{index}]", record) for index, record in enumerate(array))
                return
            may_be_array = False  # JSON Lines under the name .json
            yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def _parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", record


def _open_text(path: Path) -> TextIO:
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig")
        case ".bz2":
            return bz2.open(path, "rt", encoding="utf-8-sig")
        case ".zst":
            return io.TextIOWrapper(zstandard.open(path, "rb"), encoding="utf-8-sig")
        case _:
            return path.open(encoding="utf-8-sig")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong in a file into an error that names it."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, zstandard.ZstdError, ArrowException) as error:
        raise MftcoderError(f"{path}: cannot be read: {error}. Restore the file.") from error
