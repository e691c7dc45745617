"""What the ranks of a run say of themselves through the store of the process group, and what follows from it."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from uuid import uuid4

import torch.distributed as dist

from mftcoder.distributed import Group

COLLECTIVES = ("torch/distributed/", "deepspeed/comm/")  # a rank that hangs in these waits for another


@dataclass(frozen=True)
class Pulse:
    """What a rank says of itself."""

    rank: int
    host: str
    pid: int
    beats: int  # of its thread
    done: int
    place: str
    waiting: bool  # in a collective, by its main thread's stack
    steps: bool  # whether steps are taken, and something must be done
    error: str | None  # that it ends with

    @property
    def name(self) -> str:
        return f"rank {self.rank} ({self.host.partition(' ')[0]}, process {self.pid}), last in {self.place}"


@dataclass(frozen=True)
class Seen:
    """A rank's latest pulse, and when it last changed, on this process's monotonic clock."""

    pulse: Pulse
    beat_at: float
    done_at: float

    @classmethod
    def after(cls, before: "Seen | None", pulse: Pulse) -> "Seen":
        now = time.monotonic()
        if before is None:
            return cls(pulse, now, now)
        done = (pulse.done, pulse.steps) != (before.pulse.done, before.pulse.steps)
        return cls(
            pulse,
            now if pulse.beats != before.pulse.beats else before.beat_at,
            now if done else before.done_at,
        )


def who_is_missing(seen: list[Seen], period: float) -> str:
    """Whom the others wait for: ranks that are silent, else those in no collective, else those that have done less."""
    now, pulses = time.monotonic(), [one.pulse for one in seen]
    rules: list[Callable[[Seen], bool]] = [
        lambda one: now - one.beat_at > 3 * period,
        lambda one: not one.pulse.waiting,
        lambda one: one.pulse.done < max(pulse.done for pulse in pulses),
    ]
    for rule in rules:
        missing = [one.pulse for one in seen if rule(one)]
        if missing and (len(missing) < len(seen) or len(seen) == 1):
            return f"Missing: {names(missing)}."
    return f"All wait: {names(pulses)}."


def names(pulses: list[Pulse]) -> str:
    return ", ".join(pulse.name for pulse in pulses)


def is_waiting(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in COLLECTIVES):
            return True
        frame = frame.f_back
    return False


class Exchange:
    """Pulses to and from the other ranks, by a thread of its own, since the store may keep a caller waiting for ever.

    Attributes:
        own: this rank's pulse, to be told.
        seen: what was heard of which ranks: on rank 0 of all, on others of rank 0.
        verdict: why the run must end, once a rank has found that.
    """

    def __init__(self, group: Group, period: float) -> None:
        """``period`` seconds lie between two pulses. Collective."""
        self.own: Pulse | None = None
        self.seen: dict[int, Seen] = {}
        self.verdict: str | None = None
        self._group, self._period, self._ended = group, period, threading.Event()
        run = group.on_main(lambda: uuid4().hex)  # a launcher's store may hold keys of a run before
        self._store = _connect(run) if group.size > 1 else None
        self._thread = threading.Thread(target=self._talk, name="watchdog exchange", daemon=True)

    @property
    def is_alone(self) -> bool:
        return self._store is None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(self._period)

    def publish(self) -> None:
        """Tell the own pulse; RuntimeError if the store cannot be reached."""
        if self.own and self._store:
            self._store.set(f"pulse/{self._group.rank}", json.dumps(asdict(self.own)))

    def read(self, ranks: Iterable[int]) -> None:
        """Hear of ``ranks``, as soon as all have a pulse; RuntimeError if the store cannot be reached."""
        keys = [f"pulse/{rank}" for rank in ranks]
        if self._store is None:
            pulses = [self.own] if self.own else []
        else:
            heard = self._store.multi_get(keys) if self._store.check(keys) else []
            pulses = [Pulse(**json.loads(content)) for content in heard]
        for pulse in pulses:
            self.seen[pulse.rank] = Seen.after(self.seen.get(pulse.rank), pulse)

    def announce(self, verdict: str, seconds: float) -> bool:
        """Tell the others ``verdict``, within ``seconds``; whether this rank was the first to do so."""
        first = [True]  # also if the store cannot be reached

        def tell() -> None:
            assert self._store is not None
            first[0] = self._store.add("found", 1) == 1
            self._store.set("verdict", verdict)

        if self._store:
            _within(seconds, tell)
        return first[0]

    def wait_for_stacks(self, seconds: float) -> None:
        """Say that the stacks of this rank are written; return when those of all are, or after ``seconds``."""

        def wait() -> None:
            assert self._store is not None
            written = self._store.add("written", 1)
            while written < self._group.size:
                time.sleep(0.1)
                written = self._store.add("written", 0)

        if self._store:
            _within(seconds, wait)

    def _talk(self) -> None:
        others = range(self._group.size) if self._group.is_main else range(1)
        with suppress(RuntimeError):  # then nothing more is heard, and that tells
            while not self._ended.wait(self._period):
                self.publish()
                self.read(others)
                if self._store and self._store.check(["verdict"]):
                    self.verdict = self._store.get("verdict").decode()


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Run ``action``, which may fail or never return, for at most ``seconds``."""

    def act() -> None:
        with suppress(RuntimeError):
            action()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)


def _connect(run: str) -> dist.Store:
    """A connection of our own to the store by which the ranks found each other, for keys of this run."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.PrefixStore(run, dist.TCPStore(address, port, is_master=False, wait_for_workers=False))


def host() -> str:
    """Host and namespace of process numbers: equal where these mean the same processes."""
    return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"


def bytes_moved() -> int:
    """Bytes that this process has read and written so far, from and to anything but sockets."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "wchar")))
