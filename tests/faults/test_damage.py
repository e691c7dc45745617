"""Checkpoints and shards that were harmed, and a world that changed between two starts of a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from end_to_end_project import command, succeed
from test_resume import last_checkpoint

pytestmark = [pytest.mark.engine, pytest.mark.long]


def delete(file: Path) -> None:
    file.unlink()


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


def replace(file: Path) -> None:
    """Something else of the same size."""
    file.write_bytes(bytes(file.stat().st_size))


HARMS: list[Callable[[Path], None]] = [delete, halve, flip, replace]


@pytest.fixture
def finished(write_config, tmp_path) -> Path:
    """The config of a run with checkpoints at steps 4 and 6."""
    config = write_config("run", training__max_steps=6, logging__report_to=[])
    succeed("train", config)
    return config


def test_a_harmed_checkpoint_is_refused_and_named_and_the_one_before_is_good(finished, tmp_path):
    last = last_checkpoint(tmp_path / "run")
    shutil.copytree(last, tmp_path / "copy")
    for harm in HARMS:
        shutil.rmtree(last)
        shutil.copytree(tmp_path / "copy", last)
        file = min((last / "engine").rglob("*.pt"))
        harm(file)
        done = command("train", finished, "--resume")
        assert done.returncode == 2, f"{harm.__name__}: {done.stdout}{done.stderr}"
        assert file.name in done.stderr, harm.__name__
        assert str(last) in done.stderr, harm.__name__
    shutil.rmtree(last)  # as the message says
    out = succeed("train", finished, "--resume")
    assert "resuming from" in out
    assert "step-000004" in out


def test_a_harmed_or_missing_mark_of_completeness(finished, tmp_path):
    mark = last_checkpoint(tmp_path / "run") / "checkpoint.json"
    whole = mark.read_bytes()
    for harm in (halve, replace):
        harm(mark)
        done = command("train", finished, "--resume")
        assert done.returncode == 2, f"{harm.__name__}: {done.stdout}{done.stderr}"
        assert str(mark) in done.stderr
        mark.write_bytes(whole)
    mark.unlink()  # as of a save that was cut short
    assert "step-000004" in succeed("train", finished, "--resume")


@pytest.mark.parametrize("harm", HARMS)
def test_harmed_shards_are_named(harm, write_config, tmp_path, project):
    shutil.copytree(project["data"]["shards"], tmp_path / "shards")
    file = min((tmp_path / "shards").rglob("*.arrow"))
    harm(file)
    done = command("train", write_config("run", data__shards=str(tmp_path / "shards")), "--verify", "full")
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(file) in done.stderr


def test_foreign_shards_are_refused(write_config, tmp_path, project):
    shards = tmp_path / "shards"
    other = write_config("other", data__sequence_length=64, data__shards=str(shards))
    succeed("tokenize", other)
    done = command("train", write_config("run", data__shards=str(shards)))
    assert done.returncode == 2
    assert "sequence_length" in done.stderr
    mixed = tmp_path / "mixed"  # the manifest of one, the files of another
    shutil.copytree(project["data"]["shards"], mixed)
    for file in sorted(mixed.rglob("*.arrow")):
        shutil.copy(shards / file.relative_to(mixed), file)
    done = command("train", write_config("run", data__shards=str(mixed)))
    assert done.returncode == 2
    assert ".arrow: has" in done.stderr


def test_what_changed_before_resuming_is_named_with_both_values(finished, write_config, tmp_path, project):
    mark = last_checkpoint(tmp_path / "run") / "checkpoint.json"
    state = json.loads(mark.read_text())
    mark.write_text(json.dumps(state | {"mftcoder": "0.0.7"}))
    done = command("train", finished, "--resume")
    assert done.returncode == 2
    assert "mftcoder was 0.0.7, now " in done.stderr
    mark.write_text(json.dumps(state))

    again = {"training__max_steps": 6, "logging__report_to": []}
    changed = write_config("run", training__learning_rate=1e-3, **again)
    assert "training.learning_rate was 0.002, now 0.001" in command("train", changed, "--resume").stderr

    shards = tmp_path / "shards"
    changed = write_config("run", data__shards=str(shards), data__validation_fraction=0.2, **again)
    succeed("tokenize", changed)
    done = command("train", changed, "--resume")
    assert done.returncode == 2
    assert f"was trained on shards {state['data']['fingerprint']}, but data.shards now holds" in done.stderr

    base = Path(project["model"]["path"])
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))
    changed = write_config("run", model__path=str(tmp_path / "base"), **again)
    done = command("train", changed, "--resume")
    assert done.returncode == 2
    assert "tokenizer" in done.stderr
