"""Checkpoints on file systems that show late what other hosts have written."""

import json
import os
from pathlib import Path

import pytest

from mftcoder.config.load import parse
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.training import checkpoint
from mftcoder.training.checkpoint import STATE, complete_checkpoints, save_checkpoint, verify_files


class Rank(Group):
    """One of several ranks; what the others bring to ``gather`` is what the test says."""

    def gather(self, value):
        return [value if rank == self.rank else others for rank, others in enumerate(self.views)]


@pytest.mark.parametrize(
    "views",
    [
        [["a", "b", "c", "d"]] * 2,
        [["a", "b"], ["b", "c", "d"]],  # neither host sees all
        [["a"], ["b"], ["c"], ["d"]],
        [[], ["a", "b", "c", "d"]],
    ],
)
def test_every_file_is_described_once_by_a_rank_that_sees_it(tmp_path, views):
    described = []
    for rank, seen in enumerate(views):
        folder = tmp_path / str(rank)
        folder.mkdir()
        for name in seen:
            (folder / name).touch()
        group = Rank(rank, len(views))
        object.__setattr__(group, "views", views)
        mine = checkpoint._my_files(folder, group)
        assert set(mine) <= set(seen)
        described += mine
    assert sorted(described) == ["a", "b", "c", "d"]


class Files:
    """An engine that writes two files."""

    def save(self, directory: Path) -> None:
        (directory / "engine").mkdir(parents=True)
        for name in ("one", "two"):
            (directory / "engine" / name).write_text(name)


def test_a_save_that_cannot_be_completed_leaves_the_one_before_as_the_last(tmp_path, monkeypatch):
    state = {"step": 1, "best_step": None}
    save_checkpoint(tmp_path, Files(), state, Group(), keep=1)

    def fail(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(MftcoderError, match="No space left") as error:
        save_checkpoint(tmp_path, Files(), state | {"step": 2}, Group(), keep=1)
    assert error.value.exit_code == 1
    (last,) = complete_checkpoints(tmp_path)
    assert last.step == 1
    assert last.state["files"].keys() == {"engine/one", "engine/two"}


def test_files_and_their_names_are_on_the_disk_before_the_checkpoint_counts(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "step-000001"
    synced = []  # (file or folder, whether the checkpoint counted when it was synced)
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((os.readlink(f"/proc/self/fd/{handle}"), (path / STATE).exists()))
    )
    save_checkpoint(tmp_path, Files(), {"step": 1, "best_step": None}, Group(), keep=None)
    before = {name for name, counted in synced if not counted}
    assert before >= {
        str(name) for name in (path.parent, path, path / "engine", path / "engine/one", path / "engine/two")
    }
    assert synced[-2:] == [(f"{path / STATE}.partial", False), (str(path), True)]


def test_keeping_one_keeps_the_last_and_the_best(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1)):
        save_checkpoint(tmp_path, Files(), {"step": step, "best_step": best}, Group(), keep=1)
    assert [found.step for found in complete_checkpoints(tmp_path)] == [1, 3]
    assert json.loads((tmp_path / "checkpoints" / "step-000003" / "checkpoint.json").read_text())["best_step"] == 1


def test_without_a_limit_all_are_kept(tmp_path):
    for step in (8, 9, 10):
        save_checkpoint(tmp_path, Files(), {"step": step, "best_step": 8}, Group(), keep=None)
    assert [found.step for found in complete_checkpoints(tmp_path)] == [8, 9, 10]


def test_a_changed_a_missing_and_a_foreign_file_are_named(tmp_path):
    save_checkpoint(tmp_path, Files(), {"step": 1, "best_step": None}, Group(), keep=None)
    (saved,) = complete_checkpoints(tmp_path)
    verify_files(saved, Group())
    (saved.path / "engine" / "one").write_text("eno")  # of the same length
    (saved.path / "engine" / "two").unlink()
    with pytest.raises(MftcoderError, match="engine/one, engine/two missing or changed"):
        verify_files(saved, Group())
    (saved.path / "engine" / "three.pt").touch()
    with pytest.raises(MftcoderError, match=r"engine/three\.pt does not belong to it"):
        verify_files(saved, Group())


def test_an_output_dir_that_is_no_folder_of_a_file_system_is_refused():
    with pytest.raises(MftcoderError, match="output_dir: must be a folder of a file system"):
        parse(
            {"output_dir": "s3://bucket/run", "model": {"path": "m"}, "data": {"tasks": [{"name": "a", "path": "b"}]}}
        )
