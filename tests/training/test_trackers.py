"""What leaves for other services, and that none of them can stop a training."""

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.training import trackers
from mftcoder.training.trackers import Trackers, check_installed, without_secrets


def make_config(output_dir: Path, *report_to: str, **logging) -> Config:
    return Config.model_validate(
        {
            "output_dir": str(output_dir),
            "model": {"path": "base"},
            "data": {"tasks": [{"name": "a", "path": "s3://me:pass@bucket/a.jsonl?signature=abc"}]},
            "logging": {"report_to": list(report_to), **logging},
        }
    )


class Broken:
    """Fails from its second line on."""

    def __init__(self, *_) -> None:
        self.lines = 0

    def log(self, values, step) -> None:
        self.lines += 1
        if self.lines > 1:
            raise ConnectionError("no route to host")

    def close(self) -> None:
        raise AssertionError("is gone")


class Sound:
    def __init__(self, *_) -> None:
        self.lines = []
        Sound.last = self

    def log(self, values, step) -> None:
        self.lines.append((step, dict(values)))

    def close(self) -> None:
        self.lines.append("closed")


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": Broken, "trackio": Sound})
    told = []
    opened = Trackers(make_config(tmp_path, "wandb", "trackio"), 0, told.append)
    for step in (1, 2, 3):
        opened.log({"loss": 1.0 / step}, step)
    opened.close()
    assert [step for step, _ in Sound.last.lines[:-1]] == [1, 2, 3]
    assert Sound.last.lines[-1] == "closed"
    assert len(told) == 1
    assert "wandb failed" in told[0]
    assert "no route to host" in told[0]


def test_a_tracker_that_does_not_start_is_told_and_left_out(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no account")

    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": refuse})
    told = []
    opened = Trackers(make_config(tmp_path, "wandb"), 0, told.append)
    opened.log({"loss": 1.0}, 1)
    opened.close()
    assert len(told) == 1
    assert "no account" in told[0]


def test_a_missing_package_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "trackio" else name)
    check_installed(make_config(tmp_path, "wandb", "tensorboard"))
    with pytest.raises(MftcoderError, match="pip install trackio"):
        check_installed(make_config(tmp_path, "wandb", "trackio"))


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ({"api_key": "abc", "rows": 3}, {"api_key": "…", "rows": 3}),
        ({"aio": {"hub_token": "abc"}}, {"aio": {"hub_token": "…"}}),
        ({"tokens": "all", "control_tokens": True}, {"tokens": "all", "control_tokens": True}),
        (["https://user:pw@host/a?sig=1", "plain?"], ["https://host/a", "plain?"]),
        ("s3://bucket/me@home.jsonl", "s3://bucket/me@home.jsonl"),
    ],
)
def test_secrets_do_not_leave_the_machine(value, public):
    assert without_secrets(value) == public


LOG = """
import sys
from pathlib import Path
from mftcoder.config.schema import Config
from mftcoder.training.metrics import cut
from mftcoder.training.trackers import Trackers
config = Config.model_validate_json(sys.argv[1])
for step in (1, 2, 0):
    if step == 0:
        cut(Path(config.output_dir), -1)  # starts anew
    opened = Trackers(config, step, sys.exit)
    opened.log({"train/loss": 0.5}, step)
    opened.close()
"""


def test_trackio_gets_all_lines_of_a_run_and_its_continuation_under_one_name(tmp_path):
    config = make_config(tmp_path / "mine", "trackio")
    (tmp_path / "mine").mkdir()
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}  # which is read at its import
    program = [sys.executable, "-c", LOG, config.model_dump_json()]
    subprocess.run(program, env=environment, check=True, capture_output=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "mftcoder.db")) as found:
        lines = found.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        configs = [json.loads(text) for (text,) in found.execute("SELECT config FROM configs")]
    names = [name for name, *_ in lines]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("mine-") for name in names)
    assert [(step, json.loads(metrics)) for _, step, metrics in lines] == [(n, {"train/loss": 0.5}) for n in (1, 2, 0)]
    assert [its["data"]["tasks"][0]["path"] for its in configs] == ["s3://bucket/a.jsonl"] * 2


def test_wandb_offline_holds_all_lines_of_a_run_and_its_continuation(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = make_config(tmp_path, "wandb", project="tests", run_name="first")
    for steps in ([1, 2, 3], [2, 3]):  # killed after step 3, resumed from step 1
        opened = Trackers(config, steps[0], pytest.fail)
        for step in steps:
            opened.log({"train/loss": 1.0 / step}, step)
        opened.close()
    found = [list(wandb_records(file)) for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    starts = [record.run for records in found for record in records if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in starts} == {(starts[0].run_id, "tests", "first")}
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"id": starts[0].run_id}
    text = str(found)
    assert "s3://bucket/a.jsonl" in text
    assert "pass" not in text.replace("passes", "")
    lines = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for records in found
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(s, 1.0 / s) for s in (1, 2, 3, 2, 3)]


def wandb_records(file: Path) -> Iterator:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := -place % 32768) and left < 7:  # too little of the block for a header
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
