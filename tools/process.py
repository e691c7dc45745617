"""A command run to its end and watched from outside: its lines, processor time and memory."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Line:
    """A line of output; the times are since the start, those of the processor summed over the process tree."""

    text: str
    wall_seconds: float
    processor_seconds: float


@dataclass
class Watched:
    """What a command did."""

    lines: list[Line] = field(default_factory=list)
    peak_mib: float = 0.0  # resident memory of the largest process of the tree
    peak_gpu_mib: float = 0.0  # in use on all GPUs, beyond what was before


def watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    note: Callable[[str], bool] = lambda _: True,
    gpu: bool = False,
) -> Watched:
    """Run ``command`` and keep the lines (of both streams; progress bars count as lines) that ``note`` wants.

    ``environment`` is added to this process's. RuntimeError with the last lines if the command fails.
    """
    seen, last, gpu_before = Watched(), "", _gpu_mib() if gpu else None
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        text=True,  # a carriage return ends a line, too
        errors="replace",
    ) as process:
        ended = threading.Event()
        looker = threading.Thread(target=_look_until, args=(ended, process.pid, seen, gpu_before), daemon=True)
        looker.start()
        assert process.stdout is not None
        for text in process.stdout:
            last = (last + text)[-4000:]
            if note(text):
                seconds = time.perf_counter() - start
                seen.lines.append(Line(text.strip(), seconds, processor_seconds(process.pid)))
        exit_code = process.wait()
        ended.set()
        looker.join()
    if exit_code:
        raise RuntimeError(f"{' '.join(command)}\nended with {exit_code}:\n{last}")
    return seen


def processor_seconds(pid: int) -> float:
    """Of a process and its children, those that have ended included."""
    seconds = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):  # it may have ended since
            seconds += sum(process.cpu_times()[:4])
    return seconds


def _look_until(ended: threading.Event, pid: int, seen: Watched, gpu_before: float | None) -> None:
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        seen.peak_mib = max([seen.peak_mib, *(_peak_mib(process.pid) for process in _tree(pid))])
        if gpu_before is not None:
            seen.peak_gpu_mib = max(seen.peak_gpu_mib, _gpu_mib() - gpu_before)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _peak_mib(pid: int) -> float:
    """The most that a process has had in memory so far."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0) / 1024
    except OSError:
        return 0.0


def _gpu_mib() -> float:
    """In use on all GPUs; a process's own share cannot be asked for from inside a container."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(float, subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()))
