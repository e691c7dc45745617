"""The sandbox from the outside: when it refuses, what it takes, and that it ends with whoever started it."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from containment import SMALL, left_behind

from mftcoder.errors import MftcoderError
from mftcoder.sandbox import sandbox as module
from mftcoder.sandbox.sandbox import PYTHON, Sandbox
from mftcoder.sandbox.view import view

ALLOW_ALL = bytes.fromhex("060000000000ff7f")  # a filter of one instruction


@pytest.fixture(scope="module")
def sandbox():
    try:
        with Sandbox(workers=2) as started:
            yield started
    except MftcoderError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".", "a//b", "", "a\0b"])
def test_files_outside_of_the_folder_are_refused(sandbox, name):
    with pytest.raises(MftcoderError, match="relative path"):
        sandbox.run({name: "x"}, ["true"])


def test_files_that_do_not_fit_are_refused(sandbox):
    with pytest.raises(MftcoderError, match="at most 8,388,608 fit"):
        sandbox.run({"x": "x" * 9_000_000}, ["true"], SMALL)


def test_files_come_in_as_they_are_with_their_folders(sandbox):
    text = "tab\t, café, \r\n"
    outcome = sandbox.run({"a/b/c.txt": text, "a/d": "1"}, ["sh", "-c", "cat a/b/c.txt; rm -r a; ls"])
    assert outcome.stdout == text


def test_a_program_that_is_not_there(sandbox):
    outcome = sandbox.run({}, ["no-such-program"])
    assert outcome.exit_code == 127
    assert "no-such-program" in outcome.stderr


def test_programs_at_the_same_time_do_not_see_each_other(sandbox):
    program = (
        "import os, time; open('/tmp/x', 'x'); time.sleep(0.3)\n"
        "print(len([n for n in os.listdir('/proc') if n.isdigit()]))"
    )
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: sandbox.run({}, [PYTHON, "-c", program]), range(4)))
    assert {outcome.ok for outcome in outcomes} == {True}
    assert len({outcome.stdout for outcome in outcomes}) == 1


def test_the_sandbox_works_on_after_its_launcher_was_killed(sandbox):
    for launcher in sandbox._all:
        launcher._process.kill()
        launcher._process.wait()
    assert [sandbox.run({}, ["true"]).ok for _ in range(4)] == [True] * 4


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_programs_end_with_the_process_that_started_the_sandbox(sandbox, how):
    marker = uuid4().hex
    code = (
        "from mftcoder.sandbox.sandbox import Sandbox, PYTHON\n"
        f"Sandbox(backend={sandbox.backend!r}).run({{}}, [PYTHON, '-c', 'import time; time.sleep(1e6)', '{marker}'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(left_behind(marker)) < 2 and time.monotonic() < deadline:  # the parent's command line holds it, too
        time.sleep(0.1)
    assert len(left_behind(marker)) >= 2
    parent.send_signal(how)
    parent.wait(60)
    while left_behind(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(marker) == []


# Refusal


def test_where_nothing_contains_programs_they_are_not_run():
    """In a process that may not make namespaces: as under the filter itself."""
    code = (
        "from mftcoder.sandbox import kernel, seccomp\n"
        "kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\n"
        "kernel.filter_system_calls(seccomp.filter_program())\n"
        "from mftcoder.sandbox.sandbox import Sandbox\n"
        "from mftcoder.errors import MftcoderError\n"
        "try: Sandbox()\n"
        "except MftcoderError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "so none is run. Found: " in ran.stdout
    assert "namespaces: Operation not permitted" in ran.stdout
    assert "Install bubblewrap" in ran.stdout


def test_a_sandbox_that_hands_on_the_environment_is_found_out(sandbox):
    seen = view([Path(PYTHON).parents[1]])
    seen["environment"] = {**seen["environment"], "SECRET_TOKEN": "x"}
    with pytest.raises(MftcoderError, match=r"it sees the environment \(SECRET_TOKEN\)"):
        module._first_contained(seen, [sandbox.backend])


def test_a_sandbox_that_shows_too_much_is_found_out(sandbox):
    seen = view([Path(PYTHON).parents[1]])
    shown = [path for path in seen["shown"] if not path.startswith("/etc/")]
    seen |= {
        "shown": [*shown, "/etc", "/tmp"],
        "files": {},
        "links": [link for link in seen["links"] if link[0] != "/tmp"],
    }
    with pytest.raises(MftcoderError, match=r"it can read /tmp/mftcoder-probe"):
        module._first_contained(seen, [sandbox.backend])


def test_a_sandbox_without_a_filter_is_found_out(sandbox, monkeypatch):
    monkeypatch.setattr(module, "filter_program", lambda: ALLOW_ALL)
    with pytest.raises(MftcoderError, match="it can use sockets of any family"):
        module._first_contained(view([Path(PYTHON).parents[1]]), [sandbox.backend])


@pytest.mark.parametrize("folder", ["/", "/home", "~", "/tmp", "/var", "/etc"])
def test_folders_that_hold_more_than_a_toolchain_are_not_shown(folder):
    with pytest.raises(MftcoderError, match="folder of its own"):
        view([Path(folder).expanduser()])


def test_bubblewrap_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MftcoderError, match="bubblewrap: bwrap and prlimit not found"):
        Sandbox(backend="bubblewrap")


def test_limits_are_of_each_program(sandbox):
    sleeper = [PYTHON, "-c", "import time; time.sleep(1e6)"]
    assert sandbox.run({}, sleeper, replace(SMALL, wall_seconds=0.3)).reason == "time"
    assert sandbox.run({}, [PYTHON, "-c", "pass"]).ok
