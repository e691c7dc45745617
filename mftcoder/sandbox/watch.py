"""Watching a program until it ends or passes a limit, from outside of its namespaces."""

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mftcoder.sandbox.view import BOX

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_FIRST_LOOK, _LAST_LOOK = 0.004, 0.03  # seconds between looks at what is used: they grow
_CHUNK = 2**16
_GONE_WITHIN = 10.0  # seconds in which the kernel must have ended what was killed


class Ended(NamedTuple):
    """How a program ended; its fields are those of ``Outcome``, and the exit status as the kernel tells it."""

    reason: str  # empty where it ended by itself
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class OwnerGone(Exception):  # noqa: N818 - it says what has happened
    """Nobody waits for the outcome any more."""


def watch(
    root: int, stdout: int, stderr: int, owner: int, limits: dict[str, Any], kill: Callable[[int], None]
) -> Ended:
    """Waits for the process ``root`` to end, with all that it started; kills it at a limit.

    Args:
        root: a child of this process, whose end is the end of all its descendants.
        stdout, stderr: where they can be read; they are closed.
        owner: a socket that becomes readable when its other end is closed.
        limits: the fields of ``Limits``.
        kill: ends ``root`` and its descendants.

    Raises OwnerGone.
    """
    output = _Output(stdout, stderr, limits["output_bytes"])
    used = _Used(root)
    began = time.monotonic()
    ended = os.pidfd_open(root)
    try:
        reason = _until_end_or_limit(ended, owner, output, used, limits)
    finally:
        os.close(ended)
        kill(root)
        _, status, usage = os.wait4(root, 0)
        output.drain()
    cpu = max(usage.ru_utime + usage.ru_stime, used.cpu_seconds)
    if status and cpu > limits["cpu_seconds"]:  # the kernel was faster than the look at it
        reason = reason or "time"
    return Ended(
        reason or output.over,
        status,
        *output.taken,
        time.monotonic() - began,
        cpu,
        max(usage.ru_maxrss * 1024, used.peak_bytes),
    )


def _until_end_or_limit(ended: int, owner: int, output: "_Output", used: "_Used", limits: dict[str, Any]) -> str:
    """The limit that was passed; empty when ``ended``, which becomes readable at a process's end, says that it has."""
    poll = select.poll()
    for descriptor in output.open:
        os.set_blocking(descriptor, False)
    for descriptor in (ended, owner, *output.open):
        poll.register(descriptor, select.POLLIN)
    began = time.monotonic()
    between, look_at = _FIRST_LOOK, began + _FIRST_LOOK
    reason = ""
    while not reason:
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, look_at - time.monotonic()) * 1000)}
        for descriptor in ready & output.open:
            if not output.read(descriptor):
                poll.unregister(descriptor)
        if ended in ready:
            break
        if owner in ready:
            raise OwnerGone
        now = time.monotonic()
        if now >= look_at:
            used.look(limits)
            between = min(between * 1.5, _LAST_LOOK)
            look_at = now + between
        reason = output.over or used.over(limits) or ("time" if now - began > limits["wall_seconds"] else "")
    return reason


class _Output:
    """What a program writes, up to a limit."""

    def __init__(self, stdout: int, stderr: int, limit: int) -> None:
        self._both = {stdout: bytearray(), stderr: bytearray()}
        self._limit = limit
        self._left = limit
        self.open = {stdout, stderr}

    @property
    def over(self) -> str:
        return "output" if self._left < 0 else ""

    @property
    def taken(self) -> tuple[bytes, bytes]:
        first, second = self._both.values()
        return bytes(first), bytes(second)

    def read(self, descriptor: int) -> bool:
        """Takes what is there; False at the end."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return True
        if not chunk:
            self.open.discard(descriptor)
            os.close(descriptor)
            return False
        self._both[descriptor] += chunk[: max(0, self._left)]
        self._left -= len(chunk)
        return True

    def drain(self) -> None:
        """Takes what is left when all writers are dead."""
        until = time.monotonic() + _GONE_WITHIN
        while self.open:
            readable, _, _ = select.select(list(self.open), [], [], max(0.0, until - time.monotonic()))
            if not readable or self._left < 0:
                for descriptor in list(self.open):
                    self.open.discard(descriptor)
                    os.close(descriptor)
            for descriptor in readable:
                if descriptor in self.open:
                    self.read(descriptor)


class _Used:
    """What the descendants of a process use, by looks at /proc."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self._memory = 0
        self._files = 0

    def look(self, limits: dict[str, Any]) -> None:
        pids = descendants(self._root)
        cpu = memory = 0
        for pid in [self._root, *pids]:
            with contextlib.suppress(OSError, ValueError):
                *ticks, resident = _stat(pid)
                cpu += sum(ticks)
                memory += resident if pid != self._root else 0
        if memory > limits["memory_bytes"] and len(pids) > 1:  # pages that processes share were counted for each
            memory = sum(map(_proportional, pids))
        self._memory = memory
        self._files = max(map(_files_in_box, pids[-1:]), default=0)
        self.peak_bytes = max(self.peak_bytes, memory)
        self.cpu_seconds = max(self.cpu_seconds, cpu / _TICKS)

    def over(self, limits: dict[str, Any]) -> str:
        if self._memory > limits["memory_bytes"]:
            return "memory"
        if self._files > limits["files"]:
            return "files"
        return "time" if self.cpu_seconds > limits["cpu_seconds"] else ""


def descendants(root: int) -> list[int]:
    """The processes below ``root``, as far as they stay long enough to be seen."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    children = [int(child) for child in file.read().split()]
                    found += children
                    waiting += children
    return found


def _stat(pid: int) -> tuple[int, int, int, int, int]:
    """Ticks of processor time: user, system, both of children that were waited for; bytes in memory."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    user, system, reaped_user, reaped_system = map(int, fields[11:15])
    return user, system, reaped_user, reaped_system, int(fields[21]) * _PAGE


def _proportional(pid: int) -> int:
    """Bytes in memory, where each shared page counts by its share."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0


def _files_in_box(pid: int) -> int:
    """How many files and folders lie where a process may write."""
    try:
        box = os.statvfs(f"/proc/{pid}/root{BOX}")
    except OSError:
        return 0
    return box.f_files - box.f_ffree
