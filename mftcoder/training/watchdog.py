"""Watching that every rank lives and that the run gets on, from a thread of each rank, without a collective.

Each rank puts a pulse into the store of the process group: how much it has done, and where it is. Rank 0 reads them
all, the others read its own, and whoever finds that the run hangs ends it for all:

- a rank has gone whose pulse has not changed for the set time (its process is killed or stopped, its host is gone);
- the run hangs when no rank has done anything for the set time while steps are taken, since one that is stuck stops all
  of them within a step. Done is: a forward pass, a change of place, a mebibyte read or written.

Changes are counted by the reader's monotonic clock, so clocks may differ or jump.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist

from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError, ReportedByMain, RunError, StopNow, StoppedError
from mftcoder.training.launcher import Launcher, is_alive
from mftcoder.training.pulse import Exchange, Pulse, Seen, bytes_moved, host, is_waiting, names, who_is_missing

MEBIBYTE = 2**20
STDERR = 2
LONGEST_PERIOD = 2.0  # seconds between two pulses
SECONDS_TO_DUMP = 5.0  # for other ranks to write their stacks
SECONDS_TO_LEAVE = 30.0  # after an error, as launchers give: leaving a group of which a rank has gone may hang
SECONDS_WITHOUT_LAUNCHER = 300.0  # to save and end


class Watchdog:
    """Of one rank. ``seconds`` None: nothing counts as hanging, but ranks that have gone can still be named."""

    def __init__(self, group: Group, seconds: float | None, output_dir: Path, launcher: Launcher) -> None:
        self._group, self._seconds, self._stacks, self._launcher = group, seconds, output_dir / "stacks", launcher
        self._period = min(LONGEST_PERIOD, max(0.2, (seconds or 600) / 20))
        self._place, self._done, self._beats, self._bytes = "setting up", 0, 0, 0
        self._steps = False
        self._error: str | None = None
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._orphaned_at: float | None = None
        self._exchange = Exchange(group, self._period)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def at(self, place: str) -> None:
        """Say where the run is; that counts as something done."""
        self._place, self._done = place, self._done + 1

    def beat(self, *_: Any) -> None:
        """Something was done. Takes what a forward hook of torch gets."""
        self._done += 1

    @contextmanager
    def watching(self) -> Iterator["Watchdog"]:
        """Watch inside; an error of this rank is told to the others, and one that another has caused is explained."""
        self._publish()
        self._thread.start()
        self._exchange.start()
        try:
            yield self
        except (StoppedError, StopNow, ReportedByMain):
            raise
        except BaseException as error:
            if not self._exchange.is_alone:
                _leave_soon()
            if isinstance(error, RuntimeError) and (missing := self._missing_after(error)):
                raise self._explained(missing) from error
            self._error = str(error) if isinstance(error, MftcoderError) else f"{type(error).__name__}: {error}"
            self._publish()
            raise
        finally:
            self._ended.set()
            self._thread.join()
            self._exchange.stop()
            faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def taking_steps(self) -> Iterator[None]:
        """Inside, something must be done all the time."""
        self._steps = True
        try:
            yield
        finally:
            self._steps = False

    # The rest runs in the thread, but for the explanation of an error.

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            self._be_ready_to_die()
            if self._launcher.is_gone:
                self._end_with_launcher()
            self._exchange.own = self._pulse()
            if verdict := self._exchange.verdict or self._judge():
                self._end(verdict)

    def _be_ready_to_die(self) -> None:
        """If this thread hangs as well, faulthandler, which needs no lock of Python's, ends the process."""
        if self._seconds:
            faulthandler.dump_traceback_later(1.5 * self._seconds + 5, exit=True, file=STDERR)

    def _end_with_launcher(self) -> None:
        if self._orphaned_at is None:
            self._orphaned_at = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
        elif time.monotonic() - self._orphaned_at > SECONDS_WITHOUT_LAUNCHER:
            os._exit(StoppedError.exit_code)

    def _publish(self) -> None:
        """Tell a pulse now."""
        self._exchange.own = self._pulse()
        with suppress(RuntimeError):  # of a store that is out of reach
            self._exchange.publish()

    def _pulse(self) -> Pulse:
        if (moved := bytes_moved()) - self._bytes >= MEBIBYTE:
            self._bytes, self._done = moved, self._done + 1
        self._beats += 1
        frame = sys._current_frames().get(self._main or 0)
        return Pulse(
            self._group.rank,
            host(),
            os.getpid(),
            self._beats,
            self._done,
            self._place,
            is_waiting(frame),
            self._steps,
            self._error,
        )

    def _judge(self) -> str | None:
        """What is wrong with the run, if anything is."""
        seen = list(self._exchange.seen.values())
        if self._seconds is None:
            return None
        now = time.monotonic()
        silent = [one.pulse for one in seen if now - one.beat_at > self._seconds]
        hanging = all(one.pulse.steps and now - one.done_at > self._seconds for one in seen)
        if silent:
            return f"nothing was heard for {self._seconds:g} s of {names(silent)}."
        if hanging and len(seen) == self._group.size:
            return f"no rank has got on for {self._seconds:g} s. {who_is_missing(seen, self._period)}"
        return None

    def _end(self, verdict: str) -> None:
        """End this process; the first that finds ``verdict`` also tells it the others and the user."""
        found_here = self._exchange.announce(verdict, SECONDS_TO_DUMP)
        self._dump_stacks()
        self._exchange.wait_for_stacks(SECONDS_TO_DUMP + self._period)
        if found_here:
            print(
                f"mftcoder train: {verdict} Stacks of the ranks that answer: {self._stacks}. "
                "The last checkpoint is intact: --resume goes on from there. (training.watchdog_seconds)",
                file=sys.stderr,
                flush=True,
            )
        self._kill_silent()
        os._exit(RunError.exit_code)

    def _dump_stacks(self) -> None:
        with suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
            with (self._stacks / f"rank-{self._group.rank:05d}.txt").open("w") as file:
                _write_stacks(file, f"rank {self._group.rank}, {host()}, process {os.getpid()}, in {self._place}")

    def _kill_silent(self) -> None:
        """End ranks of this host that cannot end themselves: a launcher waits for half a minute before it does."""
        for one in self._exchange.seen.values():
            silent = time.monotonic() - one.beat_at > 3 * self._period
            if silent and one.pulse.host == host() and one.pulse.pid != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(one.pulse.pid, signal.SIGKILL)

    def _missing_after(self, error: RuntimeError) -> list[Pulse]:
        """The ranks that have gone or failed, if ``error`` can come from that."""
        if self._exchange.is_alone or not _is_of_connection(error):
            return []
        end = time.monotonic() + 5 * self._period + 1
        while time.monotonic() < end:
            try:
                self._exchange.read(range(self._group.size))
            except RuntimeError:  # the store has gone with rank 0
                return [self._exchange.seen[0].pulse] if 0 in self._exchange.seen and not self._group.is_main else []
            others = [one for rank, one in self._exchange.seen.items() if rank != self._group.rank]
            failed = [one.pulse for one in others if one.pulse.error]
            gone = [one.pulse for one in others if self._is_gone(one)]
            if failed or gone:
                return failed or gone
            time.sleep(0.1)
        return []

    def _is_gone(self, one: Seen) -> bool:
        if one.pulse.host == host() and not is_alive(one.pulse.pid):
            return True
        return time.monotonic() - one.beat_at > 3 * self._period

    def _explained(self, missing: list[Pulse]) -> MftcoderError:
        failed = [pulse for pulse in missing if pulse.error]
        what = (
            f"{failed[0].name} has failed: {(failed[0].error or '').rstrip('.')}."
            if failed
            else f"{names(missing)}: gone; see its output."
        )
        error = RunError(f"{what} The last checkpoint is intact: --resume goes on from there.")
        gone = {pulse.rank for pulse in missing}
        first = next(rank for rank in range(self._group.size) if rank not in gone)
        return error if self._group.rank == first else ReportedByMain(error)


def _is_of_connection(error: RuntimeError) -> bool:
    words = ("gloo", "connection", "nccl", "timed out", "socket")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _leave_soon() -> None:
    """Leave the process by force if it has not left by itself by then."""
    timer = threading.Timer(SECONDS_TO_LEAVE, os._exit, (RunError.exit_code,))
    timer.daemon = True
    timer.start()


def _write_stacks(file: TextIO, title: str) -> None:
    file.write(f"{title}\n\n")
    file.flush()
    faulthandler.dump_traceback(file, all_threads=True)
