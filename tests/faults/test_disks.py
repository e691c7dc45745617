"""Disks that are full or cannot be written: the run stops with the name of what could not be written."""

import json
import os

import pytest
from end_to_end_project import command, succeed
from fault_run import small_disk

pytestmark = [pytest.mark.engine, pytest.mark.long]


def test_a_full_disk_during_tokenization_is_named_and_with_more_room_it_goes_on(write_config, tmp_path):
    lines = [f'{{"text": "{number} and {2 * number} are two numbers."}}\n' for number in range(20_000)]
    (tmp_path / "numbers.jsonl").write_text("".join(lines))
    with small_disk(tmp_path / "small", "300k") as grow:
        tasks = [{"name": "numbers", "path": str(tmp_path / "numbers.jsonl")}]
        config = write_config("run", data__tasks=tasks, data__shards=str(tmp_path / "small" / "shards"), loss={})
        done = command("tokenize", config)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "No space left on device" in done.stderr
        assert str(tmp_path / "small") in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "small" / "shards").exists()
        grow("64m")
        succeed("tokenize", config)


def test_a_full_disk_during_metrics_stops_the_run_and_resuming_loses_no_line(write_config, tmp_path):
    with small_disk(tmp_path / "small", "2m") as grow:
        output = tmp_path / "small" / "run"
        changes = {"output_dir": str(output), "logging__report_to": [], "logging__logging_steps": 1}
        config = write_config("run", **changes, training__num_train_epochs=100, training__save_total_limit=1)
        (tmp_path / "small" / "ballast").write_bytes(bytes(900_000))
        done = command("train", config)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "could not be written" in done.stderr or "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        (tmp_path / "small" / "ballast").unlink()
        grow("16m")
        succeed("train", config, "--resume")
        steps = [
            json.loads(line)["step"]
            for line in (output / "metrics.jsonl").read_text().splitlines()
            if '"train"' in line
        ]
        assert steps == list(range(1, 1401))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(write_config, tmp_path):
    tmp_path.joinpath("locked").mkdir(mode=0o500)
    done = command("train", write_config("run", output_dir=str(tmp_path / "locked" / "run")))
    assert done.returncode == 2
    assert f"cannot write {tmp_path / 'locked' / 'run'}" in done.stderr


def test_a_disk_that_is_read_only_is_refused_before_training(write_config, tmp_path):
    with small_disk(tmp_path / "small", "2m,ro"):
        done = command("train", write_config("run", output_dir=str(tmp_path / "small" / "run")))
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"cannot write {tmp_path / 'small' / 'run'}: Read-only file system" in done.stderr
