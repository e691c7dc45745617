"""When a run counts as hanging, and what becomes of one that does."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError, ReportedByMain, StoppedError
from mftcoder.training.launcher import Launcher
from mftcoder.training.pulse import Pulse, Seen, host
from mftcoder.training.watchdog import Watchdog

SECONDS = 40.0  # so a pulse comes every two


class Alone(Group):
    """One of several ranks; the others are not there, but only what a test says of them."""

    def on_main(self, action):
        return action()


def seen(rank: int, *, silent: float = 0, idle: float = 0, **changes: object) -> Seen:
    """A rank of another host that was heard ``silent`` and got on ``idle`` seconds ago."""
    pulse = replace(Pulse(rank, "host ns", 100 + rank, 5, 9, "step 3", False, True, None), **changes)
    now = time.monotonic()
    return Seen(pulse, now - silent, now - idle)


def watchdog(
    monkeypatch, tmp_path: Path, *ranks: Seen, seconds: float | None = SECONDS, rank: int = 0, size: int = 2
) -> Watchdog:
    monkeypatch.setattr("mftcoder.training.pulse._connect", lambda run: object())
    monkeypatch.setattr("mftcoder.training.watchdog._leave_soon", lambda: None)
    made = Watchdog(Alone(rank, size), seconds, tmp_path, Launcher())
    made._exchange.seen = {one.pulse.rank: one for one in ranks}
    monkeypatch.setattr(made._exchange, "read", lambda ranks: None)
    return made


def test_a_rank_is_gone_when_nothing_was_heard_of_it_for_the_set_time(monkeypatch, tmp_path):
    assert watchdog(monkeypatch, tmp_path, seen(0), seen(1, silent=39))._judge() is None
    verdict = watchdog(monkeypatch, tmp_path, seen(0), seen(1, silent=41))._judge()
    assert verdict == "nothing was heard for 40 s of rank 1 (host, process 101), last in step 3."
    assert watchdog(monkeypatch, tmp_path, seen(0), seen(1, silent=41), seconds=None)._judge() is None


def test_a_run_hangs_when_no_rank_gets_on_while_steps_are_taken(monkeypatch, tmp_path):
    verdict = watchdog(monkeypatch, tmp_path, seen(0, idle=41, waiting=True), seen(1, idle=41))._judge()
    assert verdict is not None
    assert verdict.startswith("no rank has got on for 40 s. Missing: rank 1 ")
    for lives in (
        [seen(0, idle=41), seen(1, idle=39)],
        [seen(0, idle=41), seen(1, idle=41, steps=False)],  # setting up, saving
        [seen(1, idle=41)],  # the other was not heard yet
        [],
    ):
        assert watchdog(monkeypatch, tmp_path, *lives)._judge() is None


LOST = RuntimeError("Connection closed by peer")


def explanation(made: Watchdog, error: Exception) -> BaseException:
    made._exchange.stop = lambda: None
    made._exchange.start = made._publish = lambda: None
    with pytest.raises(Exception) as caught, made.watching():
        raise error
    return caught.value


def test_a_lost_connection_is_explained_by_the_rank_that_failed_or_has_gone(monkeypatch, tmp_path):
    failed = seen(1, error="shards/a: is damaged.")
    error = explanation(watchdog(monkeypatch, tmp_path, seen(0), failed), LOST)
    assert isinstance(error, MftcoderError)
    assert str(error).startswith(
        "rank 1 (host, process 101), last in step 3 has failed: shards/a: is damaged. The last"
    )
    assert error.exit_code == 1
    silent = explanation(watchdog(monkeypatch, tmp_path, seen(0), seen(1, silent=7)), LOST)
    assert "rank 1 (host, process 101), last in step 3: gone; see its output." in str(silent)
    process = subprocess.Popen(["true"])
    process.wait()
    dead = seen(1, host=host(), pid=process.pid)
    assert watchdog(monkeypatch, tmp_path)._is_gone(dead)
    assert "gone; see its output" in str(explanation(watchdog(monkeypatch, tmp_path, seen(0), dead), LOST))
    one_of_each = watchdog(monkeypatch, tmp_path, seen(0), failed, seen(2, silent=7))
    assert "rank 1 (host, process 101), last in step 3 has failed" in str(explanation(one_of_each, LOST))
    first_failed = explanation(watchdog(monkeypatch, tmp_path, seen(0, error="no"), seen(1), rank=1), LOST)
    assert "rank 0 (host" in str(first_failed)
    assert not isinstance(first_failed, ReportedByMain)


def test_one_of_the_ranks_that_are_left_tells_it(monkeypatch, tmp_path):
    ranks = [seen(0), seen(1, silent=99), seen(2)]
    told = [explanation(watchdog(monkeypatch, tmp_path, *ranks, rank=rank, size=3), LOST) for rank in (0, 2)]
    assert not isinstance(told[0], ReportedByMain)
    assert isinstance(told[1], ReportedByMain)


def test_an_error_of_this_rank_is_its_own(monkeypatch, tmp_path):
    for error in (RuntimeError("shape mismatch"), ValueError("connection"), MftcoderError("a.json: no")):
        made = watchdog(monkeypatch, tmp_path, seen(0), seen(1, silent=99))
        assert explanation(made, error) is error
        assert made._error == (str(error) if isinstance(error, MftcoderError) else f"{type(error).__name__}: {error}")


def test_a_run_that_is_stopped_has_not_failed(monkeypatch, tmp_path):
    for error in (StoppedError("SIGTERM: stopped"), ReportedByMain(MftcoderError("no"))):
        made = watchdog(monkeypatch, tmp_path, seen(0), seen(1))
        assert explanation(made, error) is error
        assert made._error is None


def test_a_change_of_place_and_a_beat_are_something_done(monkeypatch, tmp_path):
    made = watchdog(monkeypatch, tmp_path)
    before = made._pulse()
    made.at("saving")
    made.beat()
    assert made._pulse().done >= before.done + 2
    assert made._pulse().place == "saving"


def test_nothing_must_be_done_all_the_time_but_while_steps_are_taken(monkeypatch, tmp_path):
    made = watchdog(monkeypatch, tmp_path)
    with made.taking_steps():
        assert made._pulse().steps
    assert not made._pulse().steps


HANGING = """
import sys, time
from pathlib import Path
from mftcoder.distributed import Group
from mftcoder.training.launcher import Launcher
from mftcoder.training.watchdog import Watchdog
watchdog = Watchdog(Group(), 2.0, Path(sys.argv[1]), Launcher())
with watchdog.watching(), watchdog.taking_steps():
    watchdog.at("step 7, training")
    for _ in range(25):
        time.sleep(0.1)
        watchdog.beat()
    print("lives", flush=True)
    time.sleep(300)
"""


def test_a_run_that_hangs_is_ended_with_the_stacks_of_where_it_is(tmp_path):
    run = subprocess.run([sys.executable, "-c", HANGING, tmp_path], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert run.stdout == "lives\n"
    assert "no rank has got on for 2 s. Missing: rank 0 " in run.stderr
    assert "last in step 7, training" in run.stderr
    assert "--resume goes on from there" in run.stderr
    stacks = (tmp_path / "stacks" / "rank-00000.txt").read_text()
    assert f"rank 0, {os.uname().nodename} " in stacks
    assert 'File "<string>", line 14 in <module>' in stacks
