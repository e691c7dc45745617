"""What a process makes of signals before, while and after steps are taken."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mftcoder.errors import StoppedError
from mftcoder.training.signals import KINDS, Requests, stopped, stopped_by

TERM, INT, USR1 = KINDS


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, object]]:
    """Those of before the test, which it may not leave changed."""
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    yield before
    for kind, handler in before.items():
        signal.signal(kind, handler)


def heard(requests: Requests, number: int = 1) -> list[float]:
    """What was asked for, once the thread that listens knows of ``number`` signals."""
    end = time.monotonic() + 10
    while sum(asked := requests.take()) < number:
        assert time.monotonic() < end
        time.sleep(0.001)
    return asked


def test_a_request_to_save_is_forgotten_once_it_is_taken_and_one_to_stop_stays(capfd):
    requests = Requests()
    with requests.listening(), requests.acted_upon():
        assert requests.take() == [0, 0, 0]
        signal.raise_signal(USR1)
        assert heard(requests) == [0, 0, 1]
        assert requests.take() == [0, 0, 0]
        signal.raise_signal(TERM)
        assert heard(requests) == requests.take() == [1, 0, 0]
        signal.raise_signal(TERM)
        assert heard(requests, 2) == [2, 0, 0]
    assert capfd.readouterr().err.splitlines() == [
        "SIGUSR1: saving after this step",
        "SIGTERM: saving after this step, then stopping",
    ]
    # A launcher that ends the last ranks when the first has gone must not change their exit codes.
    assert {signal.getsignal(kind) for kind in KINDS} == {signal.SIG_IGN}


def test_a_run_that_was_not_asked_to_stop_leaves_the_handlers_of_before(handlers):
    requests = Requests()
    with requests.listening(), requests.acted_upon():
        signal.raise_signal(USR1)
        assert heard(requests) == [0, 0, 1]
    assert {kind: signal.getsignal(kind) for kind in KINDS} == handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_one_rank_alone_says_what_will_be_done(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    requests = Requests()
    with requests.listening(), requests.acted_upon():
        signal.raise_signal(TERM)
        assert heard(requests) == [1, 0, 0]
    assert not capfd.readouterr().err


def test_before_the_first_step_sigterm_and_ctrl_c_end_it_by_an_error_and_a_request_to_save_does_nothing():
    def set_up(*asked: signal.Signals) -> None:
        with Requests().listening():
            for kind in asked:
                signal.raise_signal(kind)

    set_up(USR1)
    with pytest.raises(StoppedError, match="SIGTERM: stopped before the first step") as error:
        set_up(USR1, TERM)
    assert error.value.exit_code == 75
    with pytest.raises(KeyboardInterrupt):
        set_up(INT)


def test_after_the_last_step_sigterm_changes_nothing():
    requests = Requests()
    with requests.listening():
        with requests.acted_upon():
            pass
        signal.raise_signal(TERM)
        time.sleep(0.05)
        assert requests.take() == [0, 0, 0]


def test_a_process_that_was_forked_off_ends_as_any_other():
    with Requests().listening():
        if not (child := os.fork()):
            signal.raise_signal(TERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == TERM


CTRL_C = """
import signal, sys, time
from mftcoder.training.signals import Requests
requests = Requests()
after_steps, pause = sys.argv[1:]
with requests.listening():
    with requests.acted_upon():
        signal.raise_signal(signal.SIGINT)
        time.sleep(float(pause))
        if after_steps == "no":
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.5)
    if after_steps == "yes":
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.5)
print("went on with", requests.take()[1])
"""


@pytest.mark.parametrize("after_steps", ["no", "yes"])
@pytest.mark.parametrize(
    ("pause", "code", "output"), [("0.1", 0, "went on with 2.0"), ("1.2", 130, "the last checkpoint is intact")]
)
def test_a_second_ctrl_c_stops_at_once_but_for_one_that_a_launcher_passed_on(pause, code, output, after_steps):
    program = [sys.executable, "-c", CTRL_C, after_steps, pause]
    run = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert run.returncode == code
    assert output in run.stdout + run.stderr
    assert "SIGINT: saving after this step, then stopping; Ctrl-C again stops at once" in run.stderr


def test_all_ranks_stop_for_what_any_of_them_was_asked_for():
    assert stopped_by([0, 0, 3]) is None
    assert stopped_by([1, 0, 0]) == TERM
    assert stopped_by([1, 1, 0]) == stopped_by([0, 2, 1]) == INT
    assert [stopped(kind, "now").exit_code for kind in (TERM, INT)] == [75, 130]
    assert str(stopped(INT, "now")) == "SIGINT: now"
