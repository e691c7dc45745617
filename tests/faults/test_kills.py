"""kill -9 at any moment: what was complete stays, and going on ends where an undisturbed run ends."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from end_to_end_project import MFTCODER, succeed
from fault_run import FaultRun, torchrun
from test_resume import assert_equal_bitwise, last_checkpoint, losses_logged

pytestmark = pytest.mark.engine


def kill(run: FaultRun) -> None:
    """All of the run at once, as when a host dies."""
    for pid in run.pids():
        os.kill(pid, signal.SIGKILL)
    run.end()


def complete(output_dir: Path) -> list[str]:
    return sorted(path.parent.name for path in output_dir.glob("checkpoints/*/checkpoint.json"))


def assert_same_end(ours: Path, theirs: Path) -> None:
    """Two runs ended with the same weights and optimizer, bit for bit, and logged the same."""
    mine, other = last_checkpoint(ours), last_checkpoint(theirs)
    assert mine.name == other.name
    for file in sorted((other / "engine").iterdir()):
        assert_equal_bitwise(
            torch.load(mine / "engine" / file.name, weights_only=False), torch.load(file, weights_only=False), file.name
        )
    assert losses_logged(ours) == losses_logged(theirs)


def test_a_kill_during_a_save_costs_only_that_checkpoint(write_config, tmp_path):
    config = write_config("run", training__num_train_epochs=400, training__save_steps=7, logging__report_to=[])
    output = tmp_path / "run"
    with FaultRun([*MFTCODER, "train", config], tmp_path / "log") as run:
        run.wait_for(lambda: len(complete(output)) >= 2, "two checkpoints")

        def one_half_written() -> bool:
            if len(list((output / "checkpoints").iterdir())) <= len(complete(output)):
                return False
            os.kill(run.process.pid, signal.SIGSTOP)  # so that it stays so while we look again
            if len(list((output / "checkpoints").iterdir())) > len(complete(output)):
                return True
            os.kill(run.process.pid, signal.SIGCONT)
            return False

        run.wait_for(one_half_written, "a save under way")
        before = complete(output)
        kill(run)
    with FaultRun([*MFTCODER, "train", config, "--resume"], tmp_path / "log") as run:
        run.wait_for(lambda: len(complete(output)) > len(before), "another checkpoint")
        assert f"resuming from {output / 'checkpoints' / before[-1]}\n" in run.output


@pytest.mark.long
def test_a_kill_during_tokenization_costs_no_finished_part(write_config, tmp_path):
    """Eight files are encoded in parts; killed after the first are done, the rest is encoded by the next call."""
    for number in range(8):
        lines = [f'{{"text": "{number} and {other} are two numbers."}}\n' for other in range(3000)]
        (tmp_path / f"numbers-{number}.jsonl").write_text("".join(lines))
    tasks = [{"name": "numbers", "path": str(tmp_path / "numbers-*.jsonl")}]
    names = ("killed", "whole")
    killed, whole = (
        write_config(name, data__tasks=tasks, data__shards=str(tmp_path / f"shards-{name}"), loss={}) for name in names
    )
    samples = tmp_path / "shards-killed.samples"

    def parts() -> set[Path]:
        return set(samples.rglob("*.arrow"))

    with FaultRun([*MFTCODER, "tokenize", killed], tmp_path / "log") as run:
        run.wait_for(lambda: len(parts()) >= 2, "two finished parts")
        kill(run)
    assert not (tmp_path / "shards-killed").exists()
    before = {part: part.stat().st_mtime_ns for part in parts()}
    if len(before) == 8:
        pytest.skip("all was encoded before the kill")
    succeed("tokenize", killed)
    succeed("tokenize", whole)
    kept = [part for part in before if part.exists() and part.stat().st_mtime_ns == before[part]]
    assert len(kept) >= 2
    manifests = [(tmp_path / f"shards-{name}" / "manifest.json").read_text() for name in names]
    fingerprints = [text.rpartition('"fingerprint"')[2] for text in manifests]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments_and_resumed_in_a_loop_ends_where_an_undisturbed_run_ends(
    ranks, write_config, tmp_path
):
    """Ten kills each: during set-up, steps, looks and saves, whatever comes."""
    changes = {"training__num_train_epochs": 40, "training__gradient_accumulation_steps": 2 // ranks}
    changes |= {"training__save_steps": 20, "training__eval_steps": 25, "logging__logging_steps": 1}
    changes |= {"logging__report_to": [], "training__save_total_limit": 3}
    whole, killed = write_config("whole", **changes), write_config("killed", **changes)
    succeed("train", whole, ranks=ranks)
    draw, output = random.Random(ranks), tmp_path / "killed"
    seen = [f"seed {ranks}"]
    for _ in range(10):
        with FaultRun([*torchrun(ranks), "train", killed, "--resume"], tmp_path / "log") as run:
            if draw.random() < 0.3:  # anywhere, also before the first step
                time.sleep(draw.uniform(0, 12))
            else:
                known = complete(output)
                run.wait_for(lambda known=known: complete(output) != known or run.process.poll() == 0, "a checkpoint")
                time.sleep(draw.uniform(0, 1))
            seen.append(f"{len(complete(output))} kept, last {complete(output)[-1:]}")
            kill(run)
    succeed("train", killed, "--resume", ranks=ranks)
    print(*seen, sep="\n")
    assert_same_end(output, tmp_path / "whole")
