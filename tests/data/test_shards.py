import contextlib
import json
import multiprocessing
import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

import mftcoder.data.shards as shards_module
import mftcoder.training.run as run_module
from mftcoder.cli import main
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import _SCHEMA, Rows, Shards
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError

RECORDS = {
    "chat": [{"prompt": f"two plus {i}", "answer": "five " * (i % 9)} for i in range(90)],
    "code": [{"text": f"def add{i}(a, b):\n    return a + b\n" * (1 + i % 5)} for i in range(40)],
}


@pytest.fixture
def shards(make_config) -> Shards:
    config = make_config(RECORDS)
    prepare(config, tell=lambda _: None)
    return Shards.open(shards_path(config), verify="full")


def assert_reads_as_datasets_does(shards: Shards) -> None:
    for task in shards.tasks:
        for split in ("train", "probe", "validation"):
            rows = shards.rows(task, split)
            loaded = datasets.load_from_disk(str(shards.folder / task / split))
            assert len(rows) == len(loaded) > 0
            for row, other in zip(rows, loaded, strict=True):
                assert row.input_ids.tolist() == other["input_ids"]
                assert row.supervised.tolist() == [bool(bit) for bit in other["supervised"]]
                assert row.segment_lengths.tolist() == other["segment_lengths"]
                assert row.sample_ids.tolist() == other["sample_ids"]


def test_rows_are_those_that_datasets_reads(shards: Shards) -> None:
    assert_reads_as_datasets_does(shards)


def test_rows_are_the_same_in_many_small_files_and_batches(make_config, shards: Shards, monkeypatch) -> None:
    monkeypatch.setattr(shards_module, "_ROWS_PER_BATCH", 2)
    config = make_config(RECORDS, output="small", bytes_per_file=3000)
    prepare(config, tell=lambda _: None)
    small = Shards.open(shards_path(config))
    assert len(small.rows("chat").files) > 1
    assert all(file.stat().st_size < 2 * 3000 for file in small.rows("chat").files)
    assert_reads_as_datasets_does(small)
    for row, other in zip(small.rows("chat"), shards.rows("chat"), strict=True):
        for array, expected in zip(row, other, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_rows_are_views_of_the_types_that_training_expects(shards: Shards) -> None:
    row = shards.rows("chat")[0]
    assert [array.dtype for array in row] == [np.int32, np.bool_, np.int32, np.int64]
    assert not any(array.flags.owndata or array.flags.writeable for array in row)
    assert row.segment_lengths.sum() == len(row.input_ids) == len(row.supervised)
    starts = np.cumsum(row.segment_lengths) - row.segment_lengths
    assert not row.supervised[starts].any()


def _total(rows: Rows) -> int:
    return sum(int(row.input_ids.sum()) for row in rows)


def test_rows_travel_to_other_processes(shards: Shards) -> None:
    rows = shards.rows("code")
    expected = _total(rows)
    assert len(pickle.dumps(rows)) < 1000
    assert _total(pickle.loads(pickle.dumps(rows))) == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_total, (rows,)) == expected


def test_asking_for_what_is_not_there(shards: Shards) -> None:
    with pytest.raises(IndexError):
        shards.rows("code")[len(shards.rows("code"))]
    with pytest.raises(MftcoderError, match='there is no split "test"; the splits are train, probe, validation'):
        shards.rows("code", "test")
    with pytest.raises(MftcoderError, match='hold no task "math"; they hold chat, code'):
        shards.rows("math")


@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_rows_than_was_written_is_refused(shards: Shards, more: int) -> None:
    splits = shards.manifest.task("code").splits
    found, wanted = splits["train"].rows, splits["train"].rows + more
    splits["train"] = splits["train"].model_copy(update={"rows": wanted})
    with pytest.raises(MftcoderError, match=f"code/train: is damaged: it has {found} rows; {wanted} were written"):
        shards.rows("code")


def damaged_copy(file: Path) -> bytes:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json"])
def test_a_flipped_bit_is_found_by_full_verification(shards: Shards, name: str) -> None:
    file = shards.folder / "code" / "train" / name
    file.write_bytes(damaged_copy(file))
    Shards.open(shards.folder, verify="quick")
    with pytest.raises(MftcoderError, match=f"code/train/{name}: is damaged"):
        Shards.open(shards.folder, verify="full")


@pytest.mark.parametrize(
    "command", ["inspect", "evaluate", "validate", pytest.param("train", marks=pytest.mark.engine)]
)
def test_every_command_that_opens_shards_can_verify_them_whole(
    make_config, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(RECORDS)
    prepare(config, tell=lambda _: None)
    file = shards_path(config) / "code" / "train" / "data-00000-of-00001.arrow"
    file.write_bytes(damaged_copy(file))
    (tmp_path / "config.json").write_text(config.model_dump_json())
    if command == "train":
        monkeypatch.setattr("mftcoder.engine.deepspeed.process_group", lambda _: contextlib.nullcontext(Group()))
        monkeypatch.setattr(run_module, "open_output", lambda *_, **__: None)
        monkeypatch.setattr(run_module, "set_up", lambda *_: pytest.fail("training began"))
    arguments = {
        "inspect": [str(shards_path(config))],
        "evaluate": ["no-model", "--shards", str(shards_path(config))],
        "validate": [str(tmp_path / "config.json")],
        "train": [str(tmp_path / "config.json")],
    }
    assert main([command, *arguments[command], "--verify", "full"]) == 2
    assert f"{file}: is damaged: its checksum is not" in "".join(capsys.readouterr())


def test_missing_and_cut_files_are_found_at_once(shards: Shards) -> None:
    file = shards.folder / "chat" / "probe" / "data-00000-of-00001.arrow"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(MftcoderError, match=rf"has {len(content) - 8} bytes; {len(content)} were written"):
        Shards.open(shards.folder)
    file.unlink()
    with pytest.raises(MftcoderError, match=r"chat/probe/data-00000-of-00001\.arrow: is missing"):
        Shards.open(shards.folder)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (([5, 6, 7], [0, 1], [3], [9]), "tokens, mask, segments and samples of row 1 do not fit each other"),
        (([5, 6, 7], [0, 1, 1], [2], [9]), "segments and samples of row 1 do not fit"),
        (([5, 6, 7], [0, 1, 1], [3, 0], [9, 9]), "segments and samples of row 1 do not fit"),
        (([5, 6, 7], [0, 1, 1], [2, 1], [9]), "segments and samples of row 1 do not fit"),
        (([5, -6, 7], [0, 1, 1], [3], [9]), "row 1 has a negative token id"),
    ],
)
def test_a_row_whose_parts_do_not_fit_each_other_is_refused(tmp_path: Path, row: tuple, what: str) -> None:
    columns = zip(([5], [0], [1], [8]), row, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    file = tmp_path / "data.arrow"
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, _SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
    rows = Rows([file])
    assert rows[0].input_ids.tolist() == [5]
    with pytest.raises(MftcoderError, match=f"{tmp_path}: is damaged: .*{what}"):
        rows[1]


def test_an_arrow_file_with_columns_of_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.arrow"
    table = pa.table({"input_ids": [[1, 2]], "labels": [[1, 2]]})
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(MftcoderError, match=f"{file}: is damaged: its columns are input_ids, labels"):
        len(Rows([file]))


def test_a_damaged_manifest_is_found(shards: Shards) -> None:
    manifest = shards.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["tasks"][0]["splits"]["train"]["rows"] += 1
    manifest.write_text(json.dumps(content))
    with pytest.raises(MftcoderError, match="its fingerprint does not fit"):
        Shards.open(shards.folder)
    manifest.write_text(json.dumps(content)[:-9])
    with pytest.raises(MftcoderError, match=r"manifest\.json: is damaged"):
        Shards.open(shards.folder)
    manifest.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(MftcoderError, match=r"format_version must be \d; found 99"):
        Shards.open(shards.folder)
    manifest.unlink()
    with pytest.raises(MftcoderError, match=r"holds no manifest\.json, so no complete shards"):
        Shards.open(shards.folder)
