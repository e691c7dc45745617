"""What a source file holds is read whole, in parts or not, or a MftcoderError says what is wrong with it."""

import bz2
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mftcoder import json_values
from mftcoder.data import reading, tables
from mftcoder.data.reading import SUFFIXES, Part, parts, read_file, read_part
from mftcoder.errors import MftcoderError

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
}
RECORDS = [{"text": f"line {i} é\u2028 \\n", "n": i, "list": [{"a": [i]}]} for i in range(50)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


def texts(file: Path) -> list[str]:
    return [record["text"] for _, record in read_file(file)]


@st.composite
def json_lines(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, dict]]]:
    """A file of JSON Lines with blank lines and both line ends; the records that it holds, with their line numbers."""
    lines, records = [], []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        if draw(st.booleans()):
            record = {"text": draw(st.text(max_size=30))}
            records.append((number, record))
            lines.append(json.dumps(record, ensure_ascii=draw(st.booleans())).encode("utf-8", "backslashreplace"))
        else:
            lines.append(b" " * draw(st.integers(0, 3)))
        lines.append(draw(st.sampled_from([b"\n", b"\r\n"])))
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"".join(lines[: draw(st.sampled_from([-1, None]))])
    return content, records


@settings(max_examples=200)
@given(made=json_lines(), size=st.integers(1, 80), block=st.integers(1, 80))
def test_any_cut_into_parts_gives_every_record_once_with_its_line(
    made: tuple[bytes, list[tuple[int, dict]]], size: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content, records = made
    file = tmp_path_factory.getbasetemp() / "cut.jsonl"
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        found = parts(file, size)
        if records:
            expected = [(f"{file}:{number}", record) for number, record in records]
            assert [pair for part in found for pair in read_part(part)] == expected
            assert list(read_file(file)) == expected
        else:
            with pytest.raises(MftcoderError, match="no record found"):
                list(read_file(file))
    assert [part.start for part in found[1:]] == [part.stop for part in found[:-1]]
    assert found[-1].stop is None
    lengths = [part.stop - part.start for part in found if part.stop is not None]
    assert all(length >= size for length in lengths)
    longest_line = max(map(len, content.split(b"\n"))) + 1
    assert all(length <= size + block + longest_line for length in lengths)


@pytest.mark.parametrize("rows_per_group", [1, 7, 50])
@pytest.mark.parametrize("size", [1, 900, 10**9])
def test_parquet_is_cut_at_row_groups(tmp_path: Path, rows_per_group: int, size: int) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), file, row_group_size=rows_per_group)
    found = parts(file, size)
    assert (len(found) == 1) == (size == 10**9 or rows_per_group == 50)
    expected = [(f"{file}:{number}", record) for number, record in enumerate(RECORDS, start=1)]
    assert [pair for part in found for pair in read_part(part)] == expected


def test_other_files_are_one_part(tmp_path: Path) -> None:
    for name in ["a.json", "a.jsonl.gz", "a.arrow"]:
        assert parts(tmp_path / name, 1) == [Part(tmp_path / name)]


ELEMENTS = st.lists(st.fixed_dictionaries({"text": st.text(max_size=20), "n": st.integers() | st.lists(st.floats())}))


@settings(max_examples=200)
@given(elements=ELEMENTS.filter(bool), indent=st.none() | st.integers(0, 2), block=st.integers(1, 40))
def test_an_array_is_read_as_json_reads_it(
    elements: list[dict], indent: int | None, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "array.json"
    file.write_text("\n " + json.dumps(elements, indent=indent) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_CHARACTERS", block)
        found = list(read_file(file))
    assert [where for where, _ in found] == [f"{file}[{index}]" for index in range(len(elements))]
    assert repr([record for _, record in found]) == repr(json.loads(file.read_text()))  # repr: NaN is not NaN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}', r"a\.json\[0\]: the file ends before its array does"),
        ('[{"a": 1},', r"a\.json\[1\]: the file ends before its array does"),
        ('[{"a": 1}, {"b": ', r"a\.json\[1\]: not valid JSON"),
        ('[{"a": 1}, ]', r"a\.json\[1\]: not valid JSON"),
        ('[{"a": 1} {"b": 2}]', r"a\.json\[0\]: must be followed by a comma or the end of the array; found '{'"),
        ('[{"a": 1}] {"b": 2}', r"a\.json: something follows the end of the array"),
        ('[{"a": ' + "[" * 9999, r"a\.json\[0\]: lists and objects are nested more than 100 deep"),
        ("[" + "9" * 9999, r"a\.json\[0\]: not valid JSON: Exceeds the limit"),
        ("[1]", r"a\.json\[0\]: a record must be a JSON object; found int"),
    ],
)
def test_broken_arrays_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(MftcoderError, match=message):
        list(read_file(tmp_path / "a.json"))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_files_that_were_joined_are_read_to_their_end(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSIONS[suffix]
    middle = len(LINES) // 2
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(compress(LINES[:middle]) + compress(LINES[middle:]))
    assert texts(file) == [record["text"] for record in RECORDS]


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_a_compressed_file_cut_anywhere_is_found(tmp_path: Path, suffix: str) -> None:
    content = COMPRESSIONS[suffix](LINES)
    file = tmp_path / f"a.jsonl{suffix}"
    for end in range(1, len(content), 7):
        file.write_bytes(content[:end])
        with pytest.raises(MftcoderError, match=rf"a\.jsonl{suffix}: cannot be read"):
            list(read_file(file))


def write_table(table: pa.Table, file: Path, rows_per_group: int) -> None:
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=rows_per_group)
        return
    with pa.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_group)


def test_arrow_files_of_datasets_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    assert list(read_file(tmp_path / "a.arrow")) == [
        (f"{tmp_path}/a.arrow:{number}", record) for number, record in enumerate(RECORDS, start=1)
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n', encoding=encoding)
    with pytest.raises(MftcoderError, match=r"a\.jsonl: is UTF-16|a\.jsonl:1: not valid JSON"):
        list(read_file(tmp_path / "a.jsonl"))


def limit_records(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (json_values, reading, tables):
        monkeypatch.setattr(module, "LONGEST_RECORD", length)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_no_line_takes_more_memory_than_the_limit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_records(1000, monkeypatch)
    monkeypatch.setattr(reading, "_CHARACTERS", 100)
    first, second = (json.dumps({"text": "x" * length}) for length in (900, 3000))
    content = f"[{first}, {second}, {first}]" if name == "a.json" else f"{first}\n{second}\n{first}\n"
    (tmp_path / name).write_bytes(COMPRESSIONS[".gz" if name.endswith("gz") else ""](content.encode()))
    records = read_file(tmp_path / name)
    assert next(records)[1] == {"text": "x" * 900}
    with pytest.raises(MftcoderError, match=rf"{name}(:2|\[1\]): is longer than 1,000 bytes"):
        next(records)


@pytest.mark.parametrize("rows_per_group", [1, 2, 100])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_no_row_of_a_table_is_longer_than_a_record(
    tmp_path: Path, suffix: str, rows_per_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_records(1000, monkeypatch)
    records = [{"text": ["x" * length]} for length in (900, 900, *range(20), 1500, 900)]
    file = tmp_path / f"a{suffix}"
    write_table(pa.Table.from_pylist(records), file, rows_per_group)
    with pytest.raises(MftcoderError, match=rf"a{suffix}:23: is longer than 1,000 bytes"):
        list(read_file(file))
    write_table(pa.Table.from_pylist(records[:22] * 3), file, rows_per_group)
    assert [record for _, record in read_file(file)] == records[:22] * 3


def test_long_rows_of_a_table_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    texts = [letter * 48 * 2**20 for letter in "abc"]  # the most that a record may have is 64 MiB
    pq.write_table(pa.Table.from_pydict({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    assert [len(batch) for batch in tables._parquet_batches(tmp_path / "a.parquet", 0, None)] == [1, 1, 1]
    assert [record["text"] for _, record in read_file(tmp_path / "a.parquet")] == texts


def test_bad_records_are_passed_over_if_they_may_be(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": ', b"[2]", b'{"a": "\xff"}', rb'{"a": "\ud800"}', b'{"a": 6}\0', b'{"a": 7}', b"\0"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    refused: list[str] = []
    records = [record for _, record in read_file(tmp_path / "a.jsonl", lambda error: refused.append(str(error)))]
    assert records == [{"a": 1}, {"a": 7}]
    assert [error.split(": ")[0] for error in refused] == [f"{tmp_path}/a.jsonl:{n}" for n in (2, 3, 4, 5, 6, 8)]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_keys_that_only_other_records_of_a_table_have_are_missing(suffix: str, tmp_path: Path) -> None:
    calls = [
        {"name": "f", "arguments": {"city": "Rome"}},
        {"name": "g", "arguments": {"n": 3, "of": [{"x": 1}, {"y": 2}]}},
    ]
    records = [{"messages": [{"role": "user", "content": "?"}, {"role": "tool", "call": call}]} for call in calls]
    table, file = pa.Table.from_pylist(records), tmp_path / f"a{suffix}"
    write_table(table, file, 100)
    assert "None" in str(table.to_pylist())
    assert [record for _, record in read_file(file)] == records


def seed_contents() -> dict[str, bytes]:
    """A good file of every kind."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    parquet = pa.BufferOutputStream()
    pq.write_table(table, parquet, row_group_size=20)
    contents = {".arrow": sink.getvalue().to_pybytes(), ".parquet": parquet.getvalue().to_pybytes()}
    for suffix, compress in COMPRESSIONS.items():
        contents |= {f".jsonl{suffix}": compress(LINES), f".json{suffix}": compress(json.dumps(RECORDS).encode())}
    assert set(contents) == set(SUFFIXES)
    return contents


GOOD = seed_contents()


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=100)
@given(data=st.data())
def test_any_bytes_give_records_or_an_error_that_names_the_file(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(GOOD[suffix])
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(0, 4))):
        place = chance.randrange(len(content))
        content[place] = chance.choice([0, 255, 10, 34, 91, content[place] ^ 1 << chance.randrange(8)])
    kept = bytes(content[: data.draw(st.sampled_from([len(content), chance.randrange(len(content))]))])
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(data.draw(st.sampled_from([kept, data.draw(st.binary(max_size=40))])))
    outcome: list[Any] = []
    try:
        for part in parts(file, 500):
            outcome += read_part(part, outcome.append)
    except MftcoderError as error:
        outcome.append(error)
    for found in outcome:
        assert str(found if isinstance(found, MftcoderError) else found[0]).startswith(str(file))
