"""Files made to do harm: bombs, numbers without end, claims, names that lead elsewhere, planted pickles."""

import gzip
import json
import os
import pickle
import resource
from pathlib import Path

import pyarrow as pa
import pytest
from data_targets import project
from oracle import watched
from run_targets import checkpoint_of
from tiny import CHATML, tiny_tokenizer

from mftcoder import cli
from mftcoder.config.load import apply_override, read_json
from mftcoder.config.schema import Task
from mftcoder.data.encoding import Encoder
from mftcoder.data.manifest import Manifest, _fingerprint
from mftcoder.data.prepare import prepare
from mftcoder.data.shards import Shards
from mftcoder.data.task_records import read_records
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.json_values import LONGEST_RECORD
from mftcoder.training.checkpoint import complete_checkpoints, find_checkpoint, reading, save_checkpoint, verify_files
from mftcoder.training.resume import check_identity, with_rows_of
from mftcoder.training.state import restore


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_bomb_of_zeros_is_refused_when_it_has_become_too_long(tmp_path, kind, suffix):
    """What 10 GB would become is the same: no more than one record is ever decompressed."""
    file, before = tmp_path / f"bomb.{kind}.{suffix}", peak()
    sink = pa.OSFile(str(file), "wb")
    with pa.CompressedOutputStream(sink, {"gz": "gzip", "zst": "zstd"}[suffix]) as stream:
        stream.write(b'[{"text": "' if kind == "json" else b'{"text": "')
        for _ in range(5 * LONGEST_RECORD // 2**20):
            stream.write(b"0" * 2**20)
    sink.close()
    with pytest.raises(MftcoderError, match="is longer than 67,108,864 bytes"):
        list(read_records(Task(name="t", path=str(file))))
    assert peak() - before < 6 * LONGEST_RECORD


def test_a_file_of_bombs_in_each_other_is_one_record(tmp_path):
    file = tmp_path / "twice.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.compress(b'{"text": "a"}\n')))
    with pytest.raises(MftcoderError, match="is not UTF-8"):
        list(read_records(Task(name="t", path=str(file))))


HOSTILE = {
    "deep": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "just too deep": '{"a":' * 101 + "1" + "}" * 101,
    "a million digits": '{"seed": ' + "9" * 1_000_000 + "}",
    "half a character": '{"output_dir": "\\ud83d"}',
    "NUL": '{"output_dir": "a\\u0000b"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_config_that_no_parser_likes_is_named(tmp_path, capsys, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    for argv in (["validate", file], ["import-config", file], ["construct", "run", file]):
        assert cli.main([str(part) for part in argv]) == 2
        assert f"mftcoder {argv[0]}: {file}" in capsys.readouterr().err
    with pytest.raises(MftcoderError):
        read_json(file)


@pytest.mark.parametrize("value", ["[" * 100_000, '"\\ud800"', '"a\\u0000b"'])
def test_an_override_that_no_parser_likes_is_named(value):
    with pytest.raises(MftcoderError, match="--set output_dir"):
        apply_override({}, f"output_dir={value}")


def test_an_index_of_any_number_of_digits_is_no_entry_of_a_list():
    with pytest.raises(MftcoderError, match="a list of 1"):
        apply_override({"a": [1]}, f"a.{'9' * 5000}=1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with its shards, and their manifest as JSON."""
    folder = tmp_path_factory.mktemp("project")
    manifest = prepare(project(folder), tell=lambda _: None, num_workers=1)
    return folder, manifest.model_dump(mode="json")


def rewrite(folder: Path, manifest: dict) -> None:
    """As somebody would who knows how fingerprints are made."""
    parsed = Manifest.model_validate_json(json.dumps(manifest))
    manifest["fingerprint"] = _fingerprint(parsed.inputs, parsed.tasks)
    (folder / "shards" / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("path", ["../outside.arrow", "/etc/passwd", "one/../../x"])
def test_a_manifest_names_no_files_elsewhere(made, path):
    folder, good = made
    manifest = json.loads(json.dumps(good))
    manifest["tasks"][0]["splits"]["train"]["files"][0]["path"] = path
    rewrite(folder, manifest)
    with pytest.raises(MftcoderError, match=r"lies outside the shards\. Do not use them"):
        Shards.open(folder / "shards")


@pytest.mark.parametrize("rows", [10**18, 10**400, 0, -1])
def test_a_manifest_claims_no_more_rows_than_its_files_could_hold(made, rows):
    folder, good = made
    manifest = json.loads(json.dumps(good))
    manifest["tasks"][0]["splits"]["train"]["rows"] = rows
    rewrite(folder, manifest)
    with pytest.raises(MftcoderError, match="is damaged: one / train cannot have"):
        Shards.open(folder / "shards")
    manifest["tasks"][0]["splits"]["train"]["rows"] = good["tasks"][0]["splits"]["train"]["rows"] + 1
    rewrite(folder, manifest)
    with pytest.raises(MftcoderError, match="were written"):
        Shards.open(folder / "shards").rows("one")


def test_a_task_cannot_be_named_to_write_elsewhere(made, tmp_path, capsys):
    folder, _ = made
    for name in ("../x", "/tmp/x", "..", "a/b", "", "a\n"):
        config = json.loads((folder / "config.json").read_text())
        config["data"]["tasks"][0]["name"] = name
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert cli.main(["tokenize", str(tmp_path / "config.json")]) == 2
        assert "data.tasks.0.name" in capsys.readouterr().err


class Planted:
    """A pickle that writes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Files:
    """Stands for an engine, which writes pickles."""

    def save(self, directory: Path) -> None:
        (directory / "engine").mkdir(parents=True)
        (directory / "engine" / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps({"module": {}}))


@pytest.fixture
def saved(tmp_path, base_model):
    """A run with one complete checkpoint."""
    run = tmp_path / "run"
    save_checkpoint(run, Files(), {"step": 1, "best_step": None}, Group(), keep=None)
    config = {"output_dir": str(run), "model": {"path": str(base_model)}}
    config["data"] = {"tasks": [{"name": "a", "path": "a.jsonl"}]}
    (run / "config.json").write_text(json.dumps(config))
    (run / "run.json").write_text("{}")
    return run


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_a_planted_pickle_does_not_run(saved, name, capsys):
    """In the place of one that was written, and beside it, where DeepSpeed would find it by its name."""
    mark = saved.parent / "it-ran"
    (saved / "checkpoints" / "step-000001" / "engine" / name).write_bytes(pickle.dumps(Planted(mark)))
    with watched(saved.parent):
        assert cli.main(["export", str(saved), "--to", str(saved.parent / "out")]) == 2
    assert name in capsys.readouterr().err
    assert not mark.exists()
    pickle.loads(pickle.dumps(Planted(mark)))
    assert mark.exists()  # it would have


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "engine/../../x"])
def test_a_checkpoint_names_no_files_elsewhere(saved, name):
    file = saved / "checkpoints" / "step-000001" / "checkpoint.json"
    state = json.loads(file.read_text())
    state["files"][name] = {"bytes": 1, "blake2b": "0"}
    file.write_text(json.dumps(state))
    with pytest.raises(MftcoderError, match="lies outside the checkpoint"):
        find_checkpoint(saved, "last")


def test_what_lies_behind_a_link_is_not_deleted_with_a_checkpoint(saved, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (saved / "checkpoints" / "step-000000").symlink_to(kept)
    save_checkpoint(saved, Files(), {"step": 2, "best_step": None}, Group(), keep=1)
    assert [found.step for found in complete_checkpoints(saved)] == [2]
    assert (kept / "file").exists()
    verify_files(find_checkpoint(saved, "last"), Group())


RECORDED = {"losses": [[1.0, 2.0], [0.5, 1.5]], "tasks": ["a", "b"], "steps": [0, 1]}


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [0]},
        {"steps": [0, "1"]},
        {"steps": [0, 10**400]},
        {"tasks": ["a", 1]},
        {"tasks": [["a"], "b"]},
        {"losses": [[10**400, 1], [1, 1]]},
        {"losses": {}},
        {"losses": [[]]},
    ],
    ids=str,
)
def test_recorded_losses_that_are_none_are_named(tmp_path, capsys, changes):
    file = tmp_path / "losses.json"
    file.write_text(json.dumps(RECORDED | changes))
    argv = ["simulate", "--weighting", '{"type": "coba", "window_steps": 2, "warmup_steps": 1}', "--losses", str(file)]
    assert cli.main(argv) == 2
    assert capsys.readouterr().err.startswith("mftcoder simulate: ")
    file.write_text(json.dumps(RECORDED))
    assert cli.main(argv) == 0


@pytest.mark.parametrize(
    "changes", [{"role_markers": 1}, {"weighted_loss_mode": ["coba"]}, {"lr_scheduler_type": {}}], ids=str
)
def test_values_of_the_wrong_kind_in_a_predecessor_s_config_are_named(tmp_path, capsys, changes):
    file, old = tmp_path / "old.json", {"data_paths": "a.jsonl", "output_dir": "o", "pretrained_model_path": "m"}
    file.write_text(json.dumps(old | changes))
    assert cli.main(["import-config", str(file)]) == 2
    assert f"{file}: {next(iter(changes))}" in capsys.readouterr().err


def test_half_a_character_in_a_run_is_shown_as_what_it_is(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"output_dir": f"{name} \ud800"}))
    assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == 0
    assert "\ud800" in json.loads(capsys.readouterr().out)["differing_settings"]["output_dir"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "1"},
        {"step": True},
        {"best_step": [1]},
        {"files": []},
        {"rows_per_step": 10**18},
        {"rows_per_step": []},
        {"tasks": 1},
        {"data": None},
        {"deepspeed": [1]},
        {"weighting": {}},
    ],
    ids=str,
)
def test_a_checkpoint_s_state_that_no_run_wrote_is_named(tmp_path, changes):
    config = project(tmp_path)
    output, state, now, parts = checkpoint_of(tmp_path, config)
    mark = output / "checkpoints" / "step-000006" / "checkpoint.json"
    mark.write_text(json.dumps({**state, **changes}))

    def resume() -> None:
        found = find_checkpoint(output, "last")
        with_rows_of(config, found, 3)
        check_identity(found, now)
        with reading(found):
            restore(parts[0], dict(found.state))

    with pytest.raises(MftcoderError, match="step-000006"):
        resume()


def test_a_file_of_shards_with_damaged_bytes_is_named_without_a_checksum(made):
    folder, good = made
    rewrite(folder, json.loads(json.dumps(good)))
    file = next(iter(sorted((folder / "shards").rglob("*.arrow"))))
    whole = file.read_bytes()
    broken = 0
    try:
        for place in range(0, len(whole), 7):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
            problem = ""
            try:
                list(Shards.open(folder / "shards").rows("one", file.parent.name))
            except MftcoderError as error:
                problem = str(error)
            assert not problem or str(file.parent) in problem
            broken += problem != ""
    finally:
        file.write_bytes(whole)
    assert broken > 20


def test_half_a_character_that_a_chat_template_writes_is_named_with_the_record(tmp_path):
    file, tokenizer = tmp_path / "a.jsonl", tiny_tokenizer()
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    tokenizer.chat_template = "{{ '\\ud800' }}" + CHATML
    task = Task(name="t", path=str(file))
    records = list(read_records(task))
    with pytest.raises(MftcoderError, match=r"a\.jsonl:1: the chat template's text: holds a lone surrogate"):
        Encoder(tokenizer, seed=0, sequence_length=32)(records, task)
