"""A run that a test watches, and harms, from outside: as an operating system, a scheduler or a user would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from end_to_end_project import ENVIRONMENT, MFTCODER, launcher
from warm_start import free_port

PATIENCE_SECONDS = 240.0  # for anything to happen on a machine that is busy with other things


def torchrun(ranks: int) -> list[str]:
    """The program, under torchrun with ``ranks`` ranks; 1: without a launcher."""
    return launcher(ranks) if ranks > 1 else MFTCODER


def deepspeed(ranks: int) -> list[str]:
    """The program, under DeepSpeed's launcher."""
    options = ["--num_gpus", str(ranks), "--master_port", str(free_port()), "--module", "mftcoder"]
    return [sys.executable, "-c", "from deepspeed.launcher.runner import main; main()", *options]


def wait_until(ready: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when ``ready()``; TimeoutError that names ``what`` if that takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


class FaultRun:
    """A command in a session of its own, with what it prints in a file. Nothing of it is left at the block's end."""

    def __init__(self, command: Sequence[object], log: Path, **environment: str) -> None:
        self.log, self._mark = log, f"MFTCODER_FAULT_RUN={log}"
        name, value = self._mark.split("=", 1)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=ENVIRONMENT | environment | {name: value, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "FaultRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.pids(), "something of the run is left")

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, ready: Callable[[], object], what: str) -> None:
        """Wait until ``ready()``; fails if the command ends before."""

        def ready_or_ended() -> bool:
            ended = self.process.poll() is not None
            if ready():
                return True
            assert not ended, f"ended with {self.process.returncode} before {what}:\n{self.output}"
            return False

        wait_until(ready_or_ended, f"{what}:\n{self.output}")

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: text in self.output, f'"{text}"')

    def wait_for_line_after(self, checkpoint: str, output_dir: Path) -> None:
        """Wait until a step after that of ``checkpoint`` ("step-N") is written down."""
        step, metrics = int(checkpoint.removeprefix("step-")), output_dir / "metrics.jsonl"

        def went_on() -> bool:
            lines = metrics.read_text().splitlines(keepends=True)
            return any(json.loads(line)["step"] > step for line in lines if line.endswith("\n"))

        self.wait_for(went_on, f"a step after {checkpoint}")

    def end(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code, once it has ended and nothing of it is left."""
        try:
            code = self.process.wait(seconds)
            wait_until(lambda: not self.pids(), "something of the run is left", seconds)
        except (subprocess.TimeoutExpired, TimeoutError) as error:
            raise AssertionError(f"{error}\n{self.output}") from error
        return code

    def pids(self) -> list[int]:
        """All processes of the command that live."""
        return [pid for pid, environment in _environments() if self._mark in environment]

    def rank(self, number: int) -> int:
        """The process that is rank ``number``."""
        # A launcher has no rank; a thread or helper process of a rank has its parent's.
        mine = [pid for pid, env in _environments() if self._mark in env and f"RANK={number}" in env]
        if not mine:  # no launcher
            mine = self.pids()
        return min(mine)


def _environments() -> Iterator[tuple[int, list[str]]]:
    """Every process that lives and can be looked at, with its environment as "NAME=value"."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            zombie = folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
            environment = folder.joinpath("environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if not zombie:
            yield int(folder.name), environment


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """``folder`` as a disk of ``size``, and a way to change that; skips the test where nothing can be mounted."""
    import pytest

    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
