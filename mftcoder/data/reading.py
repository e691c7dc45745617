"""Reading raw records out of one source file, or a part of it, each with the place it came from."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import pyarrow as pa

from mftcoder.data.location import failures
from mftcoder.data.tables import row_group_pieces, table_rows
from mftcoder.errors import MftcoderError
from mftcoder.json_values import DEEPEST, LONGEST_RECORD, TOO_DEEP, check_values, parse_json, too_long

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_TABLES = (".parquet", ".arrow")
SUFFIXES = (*(f".{kind}{packed}" for kind in ("jsonl", "json") for packed in ("", *_COMPRESSIONS)), *_TABLES)
_BLOCK = 2**20  # bytes that are read at once
_CHARACTERS = 2**14  # of an array that are read at once: what is left of them is copied for every element
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()
_WHITE = " \t\r\n"

Refuse = Callable[[MftcoderError], None]  # told of a bad record; it raises, or the record is passed over


def stop(error: MftcoderError) -> None:
    """The strictest ``Refuse``: the first bad record ends the reading."""
    raise error


class Part(NamedTuple):
    """A part of a source file that can be read by itself."""

    path: Path
    start: int = 0  # byte of plain .jsonl, row group of .parquet; other files have no parts
    stop: int | None = None  # where it ends; None: with the file
    first: int = 1  # number of its first line or row


def parts(path: Path, size: int) -> list[Part]:
    """``path`` as parts of about ``size`` bytes, cut between records; reads plain JSON Lines once, to number lines.

    Raises MftcoderError if the file cannot be read.
    """
    with _reading(path):
        if path.name.endswith(".jsonl"):
            return _line_parts(path, size)
        if path.name.endswith(".parquet"):
            return [Part(path, *piece) for piece in row_group_pieces(path, size)]
    return [Part(path)]


def _line_parts(path: Path, size: int) -> list[Part]:
    found, number, start = [Part(path)], 1, 0
    with path.open("rb") as stream:
        while block := stream.read(min(_BLOCK, size)):
            number += block.count(b"\n")
            if stream.tell() - start < size:
                continue
            while not block.endswith(b"\n") and (block := stream.readline(_BLOCK)):
                number += block.endswith(b"\n")
            start = stream.tell()
            found[-1] = found[-1]._replace(stop=start)
            found.append(Part(path, start, None, number))
        if start == stream.tell() and len(found) > 1:  # nothing is behind the last cut
            found.pop()
    return [*found[:-1], found[-1]._replace(stop=None)]


def read_file(path: Path, refuse: Refuse = stop) -> Iterator[tuple[str, dict[str, Any]]]:
    """All records of ``path``, as ``read_part`` gives them."""
    return read_part(Part(path), refuse)


def read_part(part: Part, refuse: Refuse = stop) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of ``part`` with their places ("tasks/a.jsonl:418"); keys whose value is null are left out.

    Records that are not valid go to ``refuse``. Raises MftcoderError for broken or truncated files, and for files
    without a record.
    """
    empty = True
    with _reading(part.path):
        for where, raw in _raw_records(part):
            empty = False
            try:
                record = _record(raw, where)
            except MftcoderError as error:
                refuse(error)
                continue
            yield where, record
    if empty and part == Part(part.path):
        raise MftcoderError(f"{part.path}: no record found. Remove the file or fill it.")


def _record(raw: Any, where: str) -> dict[str, Any]:
    text = ""
    if isinstance(raw, bytes):
        try:
            text = raw.rstrip(b"\r\n").decode()  # else errors would speak of a second line
        except UnicodeDecodeError as error:
            raise MftcoderError(f"{where}: is not UTF-8: {error}. Convert the file to UTF-8.") from None
        raw = parse_json(text, where)
    if not isinstance(raw, dict):
        raise MftcoderError(f"{where}: a record must be a JSON object; found {type(raw).__name__}.")
    if not _is_harmless(text):
        check_values(raw, where)
    return {key: value for key, value in raw.items() if value is not None}


def _is_harmless(text: str) -> bool:
    """Whether ``check_values`` cannot find anything in what the JSON ``text`` spells; nearly always, and soon told."""
    return "\\ud" not in text and "\\uD" not in text and 0 < text.count("{") + text.count("[") < DEEPEST


def _raw_records(part: Part) -> Iterator[tuple[str, Any]]:
    """Lines as bytes, elements of arrays and rows of tables as values."""
    path = part.path
    if path.name.endswith(_TABLES):
        yield from table_rows(*part)
        return
    with _open(path) as stream:
        start = stream.seek(part.start) if part.start else _skip_byte_order_mark(stream, path)
        number = part.first
        if (path.with_suffix("") if path.suffix in _COMPRESSIONS else path).suffix == ".json":
            while (byte := stream.peek(1)[:1]).isspace():
                number += stream.read(1) == b"\n"
            if byte == b"[":
                yield from ((f"{path}[{index}]", element) for index, element in enumerate(_elements(stream, path)))
                return
        for line_number, line in _lines(stream, part._replace(start=start, first=number)):
            yield f"{path}:{line_number}", line


def _lines(stream: BinaryIO, part: Part) -> Iterator[tuple[int, bytes]]:
    """The lines of ``part`` that are not blank, with their numbers; ``stream`` stands at its start."""
    place, number = part.start, part.first
    while part.stop is None or place < part.stop:
        line = stream.readline(LONGEST_RECORD + 1)
        if not line:
            return
        if len(line) > LONGEST_RECORD:
            raise too_long(f"{part.path}:{number}", "is it JSON Lines? An array belongs into a file named .json.")
        if not line.isspace():
            yield number, line
        place += len(line)
        number += 1


def _elements(stream: BinaryIO, path: Path) -> Iterator[Any]:
    """The elements of a JSON array; in memory are one block and one element."""
    text = io.TextIOWrapper(stream, encoding="utf-8")
    text.read(1)  # [
    rest, index = _more(text, "", f"{path}[0]"), 0
    while not (index == 0 and rest.startswith("]")):
        where = f"{path}[{index}]"
        element, rest = _element(text, rest, where)
        yield element
        index += 1
        if rest[0] not in ",]":
            raise MftcoderError(f"{where}: must be followed by a comma or the end of the array; found {rest[0]!r}.")
        if rest[0] == "]":
            break
        rest = _more(text, rest[1:], f"{path}[{index}]")
    if rest[1:].strip() or any(block.strip() for block in iter(lambda: text.read(_CHARACTERS), "")):
        raise MftcoderError(f"{path}: something follows the end of the array. A file holds one array.")


def _element(text: TextIO, rest: str, where: str) -> tuple[Any, str]:
    """The value that ``rest`` and what follows in ``text`` begin with, and what was read beyond it: not nothing."""
    while True:
        problem = None
        try:
            element, end = _DECODER.raw_decode(rest)
            return element, _more(text, rest[end:], where)
        except RecursionError:
            raise MftcoderError(f"{where}: {TOO_DEEP}") from None
        except ValueError as error:  # perhaps only because the element goes on behind the block
            problem = error
        if len(rest) > LONGEST_RECORD:
            raise too_long(where, f"or it is not valid JSON: {problem}.")
        if not (more := text.read(len(rest))):
            raise MftcoderError(f"{where}: not valid JSON: {problem}.")
        rest += more


def _more(text: TextIO, rest: str, where: str) -> str:
    """``rest`` and what follows in ``text`` from its first character that is not white space."""
    while not (rest := rest.lstrip(_WHITE)):
        if not (rest := text.read(_CHARACTERS)):
            raise MftcoderError(f"{where}: the file ends before its array does. Restore the file.")
    return rest


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed. Unlike Python's modules, Arrow knows every truncated file from a whole one."""
    with path.open("rb") as stream:
        if path.suffix in _COMPRESSIONS:
            stream = pa.CompressedInputStream(pa.PythonFile(stream, "r"), _COMPRESSIONS[path.suffix])
        yield stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream, _BLOCK)


def _skip_byte_order_mark(stream: io.BufferedReader, path: Path) -> int:
    """Gives the place behind it: 3, or 0 if there is none."""
    start = stream.peek(len(_BOM))
    if start.startswith(_UTF16):
        raise MftcoderError(f"{path}: is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8.")
    return len(stream.read(len(_BOM))) if start.startswith(_BOM) else 0


def _reading(path: Path) -> AbstractContextManager[None]:
    """Turns what can go wrong in a file into an error that names it."""
    return failures(
        path, f"{path}: cannot be read", EOFError, ValueError, OverflowError, MemoryError, pa.ArrowException
    )
