"""What no input may make the program do, watched from inside: audit events, processor time, memory."""

import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

from mftcoder import cli
from mftcoder.errors import MftcoderError

SECONDS = 20  # of processor time for one input
GROWTH = 400 * 2**20  # bytes that one input may add to the most memory that the process ever had

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {"os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.truncate": (0,), "os.chmod": (0,)}
CHANGING |= {"os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,), "shutil.rmtree": (0,), "shutil.move": (0, 1)}
FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"}
FORBIDDEN |= {"socket.getaddrinfo"}


class HarmError(AssertionError):
    """An input made the program do what it may not."""


class StuckError(BaseException):
    """An input takes too long; no ``except Exception`` may hide it."""


_allowed: list[Path] = []  # the folder that may be written to now; none: nobody watches
_harm: list[str] = []


def _audit(event: str, arguments: tuple) -> None:
    if not _allowed:
        return
    if event in FORBIDDEN:
        _harm.append(f"{event} {arguments!r:.200}")
    elif event == "open":
        if isinstance(arguments[2], int) and arguments[2] & WRITING:
            _judge(event, arguments[0])
    elif event in CHANGING:
        folder = arguments[-1] if isinstance(arguments[-1], int) else -1
        for place in CHANGING[event]:
            _judge(event, arguments[place], folder)


def _judge(event: str, path: Any, folder: int = -1) -> None:
    if isinstance(path, int) or path is None:
        return
    name = os.path.join(f"/proc/self/fd/{folder}" if folder >= 0 else "", os.fsdecode(path))
    real = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    of_hypothesis = f"{os.sep}.hypothesis{os.sep}" in f"{real}{os.sep}"  # its own notes, made while it draws
    if real != os.devnull and not of_hypothesis and not f"{real}/".startswith(f"{_allowed[0]}/"):
        _harm.append(f"{event} {real}")


_installed: list[bool] = []


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """HarmError if the block writes or deletes outside ``folder``, starts a process, connects, or runs a pickle.

    StuckError if it takes more than SECONDS of processor time, HarmError if it takes over GROWTH bytes of memory.
    """
    if not _installed:
        sys.addaudithook(_audit)  # for good: Python cannot take one away
        _installed.append(True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    without_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    before = signal.signal(signal.SIGVTALRM, _stuck)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    _allowed.append(folder.resolve())
    try:
        yield
    finally:
        _allowed.clear()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        sys.dont_write_bytecode = without_bytecode
        harm = _harm.copy()
        _harm.clear()
    if harm:
        raise HarmError("; ".join(harm))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if growth > GROWTH:
        raise HarmError(f"{growth:,} bytes of memory")


def _stuck(*_: object) -> None:
    raise StuckError(f"more than {SECONDS} s of processor time")


def refused(run: Callable[[Random], None], random: Random, folder: Path) -> str | None:
    """The message with which ``run`` refuses the input drawn from ``random``; None: it takes it.

    Whatever else ``run`` raises, an input has broken.
    """
    with watched(folder):
        try:
            run(random)
        except MftcoderError as error:
            message = str(error)
        else:
            return None
    if not message.strip() or "Traceback" in message:
        raise HarmError(f"an error that says nothing to a user: {message!r}")
    return message


def command(*argv: str | Path) -> None:
    """A command in this process, with streams as a terminal's; MftcoderError if it ends with 2, HarmError if not 0."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True) for errors in ("strict", "backslashreplace")
    )
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main([str(part) for part in argv])
        except SystemExit as error:
            code = error.code
    if code == 2:
        err.flush()
        raise MftcoderError(err.buffer.getvalue().decode())
    if code != 0:
        raise HarmError(f"exit code {code}: {err.buffer.getvalue().decode()}")
