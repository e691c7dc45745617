"""What a run does when it is asked to stop or to save: by its user, a scheduler, or a launcher."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from end_to_end_project import succeed
from fault_run import MFTCODER, FaultRun, deepspeed, torchrun
from test_lost_ranks import WORKER
from test_resume import assert_equal_bitwise, last_checkpoint, losses_logged

pytestmark = pytest.mark.engine

SAVED = "which is saved in"
LAUNCHERS = {"torchrun": torchrun, "deepspeed": deepspeed}


def test_a_run_that_is_told_to_save_and_then_to_stop_ends_where_an_undisturbed_one_does(write_config, tmp_path):
    # A validation is due after every step: a save that was asked for comes before it, and resuming makes up for it.
    changes = {"training__num_train_epochs": 9, "training__eval_steps": 1, "training__save_steps": 1000}
    changes |= {"logging__logging_steps": 1, "logging__report_to": []}
    whole, asked = write_config("whole", **changes), write_config("asked", **changes)
    succeed("train", whole)
    output = tmp_path / "asked"
    with FaultRun([*MFTCODER, "train", asked], tmp_path / "log") as run:
        run.wait_for(lambda: '"step": 10,' in read(output / "metrics.jsonl"), "step 10")
        pid = int((output / ".lock").read_text())
        os.kill(pid, signal.SIGUSR1)
        run.wait_for(lambda: list(output.glob("checkpoints/*/checkpoint.json")), "a checkpoint")
        first = last_checkpoint(output).name
        run.wait_for_line_after(first, output)
        os.kill(pid, signal.SIGTERM)
        assert run.end() == 75, run.output
    assert SAVED in run.output
    assert "--resume" in run.output
    stopped = last_checkpoint(output)
    assert stopped.name > first
    assert json.loads((stopped / "checkpoint.json").read_text())["looked"] is False
    succeed("train", asked, "--resume")
    ours, theirs = last_checkpoint(output), last_checkpoint(tmp_path / "whole")
    assert ours.name == theirs.name
    for file in sorted((theirs / "engine").iterdir()):
        assert_equal_bitwise(
            torch.load(ours / "engine" / file.name, weights_only=False), torch.load(file, weights_only=False), file.name
        )
    assert losses_logged(output) == losses_logged(tmp_path / "whole")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def started(command: list[str], config: Path, tmp_path: Path) -> FaultRun:
    """A run that has taken some steps."""
    run = FaultRun([*command, "train", config], tmp_path / "log")
    try:
        run.wait_for_line("step 5/")
    except BaseException:
        run.__exit__(None, None, None)
        raise
    return run


def assert_saved(run: FaultRun, output: Path) -> None:
    """The run stopped with a checkpoint of the step that it said."""
    assert SAVED in run.output
    step = last_checkpoint(output).name.removeprefix("step-").lstrip("0")
    assert f"stopped at step {step} of" in run.output


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_stops_all_after_the_same_step(launcher, rank, long_run, tmp_path):
    with started(LAUNCHERS[launcher](2), long_run("run"), tmp_path) as run:
        os.kill(run.rank(rank), signal.SIGTERM)
        code = run.end()
        assert_saved(run, tmp_path / "run")
    # torchrun has 1 for every failure; it prints the ranks' own code.
    assert code == {"torchrun": 1, "deepspeed": 75}[launcher], run.output
    assert "75" in run.output


@pytest.mark.long
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_that_ends_leaves_a_checkpoint_and_no_process(launcher, kind, long_run, tmp_path):
    with started(LAUNCHERS[launcher](2), long_run("run"), tmp_path) as run:
        run.process.send_signal(kind)
        run.end()
        assert_saved(run, tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sigusr1_to_one_rank_saves_and_goes_on(launcher, long_run, tmp_path):
    output = tmp_path / "run"
    with started(LAUNCHERS[launcher](2), long_run("run"), tmp_path) as run:
        os.kill(run.rank(1), signal.SIGUSR1)
        run.wait_for(lambda: list(output.glob("checkpoints/*/checkpoint.json")), "a checkpoint")
        run.wait_for_line_after(last_checkpoint(output).name, output)


@pytest.mark.long
def test_ctrl_c_stops_after_a_save_and_twice_at_once(long_run, tmp_path):
    with started(MFTCODER, long_run("once"), tmp_path) as run:
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.output
        assert_saved(run, tmp_path / "once")
    # The second key must not wait for the save after a step, which here never ends.
    with FaultRun([sys.executable, WORKER, "hang", 0, 6, long_run("twice")], tmp_path / "log") as run:
        run.wait_for_line("step 5/")
        time.sleep(1)  # into the step that hangs
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait_for_line("Ctrl-C again")
        time.sleep(1.5)  # one key within a second counts as one
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.output
        assert "stopped at once" in run.output
    assert not list((tmp_path / "twice").glob("checkpoints/*/checkpoint.json"))


@pytest.mark.long
def test_ctrl_c_under_a_launcher_that_passes_it_on_counts_once(long_run, tmp_path):
    with started(torchrun(2), long_run("run"), tmp_path) as run:
        os.killpg(run.process.pid, signal.SIGINT)
        run.end()
        assert_saved(run, tmp_path / "run")


@pytest.mark.long
def test_signals_before_the_first_step(long_run, tmp_path):
    """There is nothing to save yet: SIGUSR1 does no harm, SIGTERM stops at once, and the same command starts anew."""
    config = long_run("run")
    with FaultRun([*MFTCODER, "train", config], tmp_path / "log") as run:
        run.wait_for(lambda: read(tmp_path / "run" / ".lock"), "the lock")
        os.kill(run.process.pid, signal.SIGUSR1)
        os.kill(run.process.pid, signal.SIGTERM)
        assert run.end() == 75, run.output
    assert "before the first step" in run.output
    with FaultRun([*MFTCODER, "train", config, "--resume"], tmp_path / "log") as run:
        run.wait_for_line("step 5/")
