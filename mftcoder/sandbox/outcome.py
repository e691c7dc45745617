"""What a program may use, and what became of it."""

from dataclasses import dataclass
from typing import Literal

MIB = 2**20

Reason = Literal["ok", "failed", "time", "memory", "output", "files"]


@dataclass(frozen=True)
class Limits:
    """What a program and all that it starts may use together, where nothing else is said."""

    cpu_seconds: float = 10.0
    wall_seconds: float = 60.0
    memory_bytes: int = 1024 * MIB  # without its files; no single process can ask for more
    processes: int = 128  # and threads, at the same time
    open_files: int = 256  # of each process
    file_bytes: int = 64 * MIB  # of each file
    disk_bytes: int = 128 * MIB  # of all files; they lie in memory
    files: int = 10_000  # and folders
    output_bytes: int = MIB  # of standard output and error


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    ``reason`` is ``ok`` for exit code 0, ``failed`` for another, and otherwise the limit for which it was killed.
    """

    reason: Reason
    exit_code: int | None  # as shells tell it: 128 + n where signal n ended it; None where it was killed at a limit
    stdout: str
    stderr: str
    seconds: float  # on the clock
    cpu_seconds: float
    peak_bytes: int  # of memory, as far as it was seen

    @property
    def ok(self) -> bool:
        return self.reason == "ok"

    @property
    def signal(self) -> int | None:
        """The signal that ended it, where its exit code tells of one."""
        return self.exit_code - 128 if self.exit_code is not None and self.exit_code > 128 else None
