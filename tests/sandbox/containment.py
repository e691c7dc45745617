"""Hostile programs, run, with a look at what they leave behind."""

import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ordinary_user import Remote

from mftcoder.sandbox.outcome import MIB, Limits, Outcome
from mftcoder.sandbox.sandbox import Sandbox

SECRET = "parent-of-all"
SMALL = Limits(
    cpu_seconds=5,
    wall_seconds=60,
    memory_bytes=96 * MIB,
    processes=24,
    open_files=64,
    file_bytes=4 * MIB,
    disk_bytes=16 * MIB,
    files=500,
    output_bytes=100_000,
)


@dataclass
class Contained:
    """Runs Python programs, and looks whether they leave anything behind."""

    sandbox: Sandbox | Remote
    python: str

    def __call__(self, program: str, *arguments: str, limits: Limits = SMALL) -> Outcome:
        marker = f"hostile-{uuid4().hex}.py"
        outcome = self.sandbox.run({marker: program}, [self.python, "-I", "-S", marker, *arguments], limits)
        patience = time.monotonic() + 30  # what was killed may still be going on a busy machine
        while left_behind(marker) and time.monotonic() < patience:
            time.sleep(0.05)
        assert left_behind(marker) == []
        return outcome


def left_behind(marker: str) -> list[str]:
    """The processes of this machine whose command line holds ``marker``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found
