"""Distribution as a value that is passed around: one process is a group of size 1."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mftcoder.errors import MftcoderError, ReportedByMain, RunError, StopNow

T = TypeVar("T")


class Stopwatch:
    """The seconds that something takes, again and again.

    On a GPU they are measured by events in its stream, which the host reads once it has waited for something later.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Measure what runs inside, on ``device``."""
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """The seconds since it was called last. On a GPU what is still under way is left for the next call."""
        done = [pair for pair in self._events if pair[1].query()]
        self._events = self._events[len(done) :]
        seconds = self._seconds + sum(start.elapsed_time(end) for start, end in done) / 1000
        self._seconds = 0.0
        return seconds


@dataclass(frozen=True)
class Group:
    """The ranks of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stopwatch: Stopwatch = field(default_factory=Stopwatch, compare=False)  # of ``sum``, and of what the engine sends
    own_work: Stopwatch = field(default_factory=Stopwatch, compare=False)  # of what needs no other rank
    ranks_per_row: int = 1  # consecutive ranks that work on the same rows (sequence parallelism)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is global: metrics, manifests, messages."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """The number of the ranks, among ``data_size``, that share this one's rows."""
        return self.rank // self.ranks_per_row

    @property
    def data_size(self) -> int:
        """How many sets of rows are worked on at a time."""
        return self.size // self.ranks_per_row

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, on this rank's device; every rank gets the same bits. One collective.

        Of ranks that share their rows, and so bring the same values, one counts.

        Args:
            values: any shape, the same on all ranks; float64.
        """
        values = values.to(self.device, copy=True)
        if self.size > 1:
            with self.stopwatch.running(self.device):
                dist.all_reduce(values)
        return values / self.ranks_per_row if self.ranks_per_row > 1 else values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value`` (JSON-like and small), in order of rank, on every rank. One collective."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def without(self, seen: bool) -> str:
        """The hosts, and their ranks, for which ``seen`` is false: "node-b (rank 8, 9)"; "" if there is none."""
        views = self.gather([socket.gethostname(), seen])
        hosts: dict[str, list[str]] = {}
        for rank, (host, sees) in enumerate(views):
            if not sees:
                hosts.setdefault(host, []).append(str(rank))
        return ", ".join(f"{host} (rank {', '.join(ranks)})" for host, ranks in hosts.items())

    def on_main(self, action: Callable[[], T]) -> T:
        """``action()`` on rank 0 alone; its result (small, picklable) or its MftcoderError reaches every rank."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except (MftcoderError, StopNow) as error:
                if self.size == 1:
                    raise
                outcome[1] = error.error if isinstance(error, StopNow) else error
        if self.size > 1:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1] if self.is_main else ReportedByMain(outcome[1])
        return outcome[0]

    def barrier(self) -> None:
        """Returns once every rank is here."""
        if self.size > 1:
            dist.barrier()

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        """Poll until ``ready()``, without a collective; RunError that names ``what`` after ``timeout_seconds``."""
        if not wait(ready, timeout_seconds):
            raise RunError(f"rank {self.rank} waited {timeout_seconds:.0f} s for {what}. See the log of rank 0.")


def wait(ready: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll until ``ready()``; whether it was so within ``timeout_seconds``."""
    end = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def rank_from_environment() -> tuple[int, int, int]:
    """(rank, world size, local rank) as the launcher set them; without a launcher, those of a process alone."""
    if "RANK" not in os.environ:
        return 0, 1, 0
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0))
