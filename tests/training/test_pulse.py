"""Who is missing, from what the ranks say of themselves; and who is above a process."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mftcoder.training.launcher import is_alive
from mftcoder.training.pulse import Pulse, Seen, is_waiting, who_is_missing

PERIOD = 1.0


def seen(rank: int, *, done: int = 9, waiting: bool = True, silent: float = 0.0) -> Seen:
    pulse = Pulse(rank, "host ns", 100 + rank, 5, done, "step 3, training", waiting, True, None)
    now = time.monotonic()
    return Seen(pulse, now - silent, now - 60)


def missing(*ranks: Seen) -> str:
    return who_is_missing(list(ranks), PERIOD)


def test_a_silent_rank_is_missing_before_all_others():
    found = missing(seen(0, waiting=False), seen(1, silent=30), seen(2))
    assert found == "Missing: rank 1 (host, process 101), last in step 3, training."


def test_else_one_that_waits_for_nobody_and_else_one_that_has_done_less():
    assert "Missing: rank 2 (" in missing(seen(0), seen(1), seen(2, waiting=False))
    assert "Missing: rank 1 (" in missing(seen(0), seen(1, done=8), seen(2))
    assert missing(seen(0), seen(1)).startswith("All wait: rank 0 (host, process 100)")
    assert "Missing: rank 0 (" in missing(seen(0, waiting=False))  # of a run of one rank


def test_only_a_changed_count_is_a_sign_of_life_or_of_progress():
    first = seen(0, silent=30)
    same = Seen.after(first, first.pulse)
    assert (same.beat_at, same.done_at) == (first.beat_at, first.done_at)
    beats = Seen.after(first, replace(first.pulse, beats=6))
    assert beats.beat_at > first.beat_at
    assert beats.done_at == first.done_at
    assert Seen.after(first, replace(first.pulse, done=10)).done_at > first.done_at
    assert Seen.after(first, replace(first.pulse, steps=False)).done_at > first.done_at


def test_this_test_waits_in_no_collective():
    assert not is_waiting(sys._getframe())


def test_a_collective_is_seen_below_what_it_calls():
    inside: dict[str, Any] = {"frame": sys._getframe, "call": lambda function: function()}
    exec(compile("def wait(): return call(frame)", "site-packages/torch/distributed/c10d.py", "exec"), inside)
    assert is_waiting(inside["wait"]())


def test_a_process_that_has_ended_is_not_alive_before_it_is_collected():
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    while is_alive(process.pid):
        time.sleep(0.01)
    assert process.returncode is None
    process.wait()
    assert not is_alive(process.pid)


CHILD = """
import time
from mftcoder.training.launcher import Launcher
launcher = Launcher()
print(launcher.is_gone, flush=True)
while not launcher.is_gone:
    time.sleep(0.01)
print("gone", flush=True)
"""


def test_the_end_of_a_launcher_is_noticed_and_that_of_a_shell_is_not(tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    child = [sys.executable, "-c", CHILD]
    # A parent that starts the child, waits for its first line, and ends.
    parent = f"import subprocess, time; out = open({str(out)!r}, 'w')\n"
    parent += f"child = subprocess.Popen({child!r}, stdout=out, stderr=subprocess.DEVNULL)\n"
    parent += f"while not open({str(out)!r}).read(): time.sleep(0.01)\nprint(child.pid)"
    monkeypatch.setenv("RANK", "0")
    started = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True)
    pid = int(started.stdout)
    while is_alive(pid):
        time.sleep(0.01)
    assert out.read_text().split() == ["False", "gone"]

    monkeypatch.delenv("RANK")
    out.unlink()
    started = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True)
    pid = int(started.stdout)
    time.sleep(0.2)
    try:
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert out.read_text().split() == ["False"]
