"""The processes above this one that must live, or nobody is left who could end it: a launcher and its like."""

import os
from pathlib import Path

DEEPSPEEDS = b"deepspeed.launcher.launch"  # it is itself the child of the command that the user sees and ends


class Launcher:
    """Whoever started this process, as it was when this was made; there is none without a launcher's RANK.

    A process without a launcher may outlive its parent, as after ``nohup``.
    """

    def __init__(self) -> None:
        self._chain: list[tuple[int, int]] = []  # a process and its parent
        if "RANK" not in os.environ:
            return
        parent = os.getppid()
        self._chain.append((os.getpid(), parent))
        if DEEPSPEEDS in _read(parent, "cmdline") and (above := _parent(parent)) is not None:
            self._chain.append((parent, above))

    @property
    def is_gone(self) -> bool:
        return any(_parent(child) != parent for child, parent in self._chain)


def is_alive(pid: int) -> bool:
    """Whether process ``pid`` of this host runs; one that has ended but was not collected yet does not."""
    state = _read(pid, "stat").rpartition(b") ")[2][:1]
    return bool(state) and state not in (b"Z", b"X")


def _parent(pid: int) -> int | None:
    fields = _read(pid, "stat").rpartition(b") ")[2].split()
    return int(fields[1]) if fields else None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
