"""Ranks that hang, die or fail: the others end within a set time, and the user reads which rank it was."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from fault_run import FaultRun, deepspeed, torchrun

pytestmark = pytest.mark.engine

WORKER = Path(__file__).with_name("harm_worker.py")
SECONDS = 6.0  # of the watchdog
# Beside them: for stacks to be written, for a launcher to notice, and for a machine that is busy with other things.
AT_MOST = SECONDS + 60


def harmed(harm: str, rank: int, config: Path, log: Path, ranks: int = 2) -> FaultRun:
    """A run in which ``rank`` does ``harm`` after its sixth step."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return FaultRun([*launcher, WORKER, harm, rank, 6, config], log)


def test_a_rank_that_hangs_is_named_and_all_stacks_are_written(long_run, tmp_path):
    config = long_run("run", training__watchdog_seconds=SECONDS, deepspeed={"zero_optimization": {"stage": 2}})
    with harmed("hang", 1, config, tmp_path / "log") as run:
        run.wait_for_line("step 5/")
        began = time.monotonic()
        assert run.end() != 0
        assert SECONDS / 2 < time.monotonic() - began < AT_MOST
        assert f"no rank has got on for {SECONDS:g} s. Missing: rank 1 (" in run.output
    stacks = [(tmp_path / "run" / "stacks" / f"rank-0000{rank}.txt").read_text() for rank in (0, 1)]
    assert "harm_worker.py" in stacks[1]
    assert " in hang" in stacks[1]
    assert " in hang" not in stacks[0]
    assert "torch/distributed" in stacks[0]  # where it waits


@pytest.mark.long
@pytest.mark.parametrize("launcher", [torchrun, deepspeed])  # of DeepSpeed's, rank 0 holds the store
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_named_at_once(launcher, rank, long_run, tmp_path):
    with FaultRun([*launcher(2), "train", long_run("run")], tmp_path / "log") as run:
        run.wait_for_line("step 200/")  # so that its last pulse was one of steps
        pid = run.rank(rank)
        os.kill(pid, signal.SIGKILL)
        assert run.end(60) != 0
        # Launchers end the others as well; that is sooner only where the message could not be written any more.
        assert f"rank {rank} (" in run.output
        assert f"process {pid}), last in step" in run.output
        assert "gone" in run.output


@pytest.mark.long
@pytest.mark.parametrize("launcher", [torchrun, deepspeed])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_is_named_and_ended(launcher, rank, long_run, tmp_path):
    config = long_run("run", training__watchdog_seconds=SECONDS)
    with FaultRun([*launcher(2), "train", config], tmp_path / "log") as run:
        run.wait_for_line("step 5/")
        pid = run.rank(rank)
        os.kill(pid, signal.SIGSTOP)
        assert run.end(AT_MOST) != 0
        assert f"nothing was heard for {SECONDS:g} s of rank {rank} (" in run.output
        assert f"process {pid})" in run.output
    other = 1 - rank
    assert (tmp_path / "run" / "stacks" / f"rank-0000{other}.txt").exists()


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_told_by_it_and_by_the_first_other_with_its_name(rank, long_run, tmp_path):
    with harmed("fail", rank, long_run("run"), tmp_path / "log", ranks=3) as run:
        assert run.end() != 0
        told = [line for line in run.output.splitlines() if line.startswith("mftcoder train: ")]
        assert "mftcoder train: /data/shard.arrow: Input/output error" in told
        (other,) = set(told) - {"mftcoder train: /data/shard.arrow: Input/output error"}
        assert other.startswith(f"mftcoder train: rank {rank} (")
        assert "has failed: OSError: [Errno 5] Input/output error" in other


@pytest.mark.long
def test_one_process_that_hangs_ends_itself(long_run, tmp_path):
    with harmed("hang", 0, long_run("run", training__watchdog_seconds=SECONDS), tmp_path / "log", ranks=1) as run:
        assert run.end() != 0
        assert "Missing: rank 0 (" in run.output
    assert " in hang" in (tmp_path / "run" / "stacks" / "rank-00000.txt").read_text()


@pytest.mark.long
def test_a_long_validation_or_save_is_no_hang(long_run, tmp_path):
    """Three seconds without a step, while validations of one row at a time take longer."""
    slow = {"training__watchdog_seconds": 3.0, "training__per_device_eval_batch_size": 1}
    slow |= {"training__eval_steps": 10, "training__save_steps": 10, "data__validation_fraction": 0.5}
    slow |= {"data__shards": str(tmp_path / "shards"), "training__max_steps": 30}
    with FaultRun([*torchrun(2), "train", long_run("run", **slow)], tmp_path / "log") as run:
        assert run.end() == 0, run.output
