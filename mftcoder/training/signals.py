"""Signals as requests. A process notes what it is asked for; the next step's sum over ranks tells all of them.

    SIGTERM            save after the step, then stop with exit code 75
    SIGINT (Ctrl-C)    the same with exit code 130; when it comes again, stop at once
    SIGUSR1            save after the step and go on

It does not matter which rank a signal reaches, nor when: all ranks act after the same step.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, SIGUSR1, Signals
from types import FrameType

from mftcoder.errors import INTERRUPTED, StopNow, StoppedError

KINDS = (SIGTERM, SIGINT, SIGUSR1)
SECONDS_OF_ONE_KEY = 1.0  # a launcher passes on the Ctrl-C that its ranks have got from the terminal already
SHOW_CURSOR = "\x1b[?25h"


def stopped_by(asked: Iterable[float]) -> Signals | None:
    """The signal to stop for, if any was among those that all ranks together got, as ``Requests.take`` counts them."""
    got = [kind for kind, number in zip(KINDS, asked, strict=True) if number > 0]
    return SIGINT if SIGINT in got else SIGTERM if SIGTERM in got else None


def stopped(by: Signals, message: str) -> StoppedError:
    """The error to end with."""
    error = StoppedError(f"{by.name}: {message}")
    if by == SIGINT:
        error.exit_code = INTERRUPTED
    return error


class Requests:
    """What this process was asked for since it was last asked about that."""

    def __init__(self) -> None:
        self._acting = self._over = False
        self._asked = dict.fromkeys(KINDS, 0.0)
        self._lock = threading.Lock()
        self._interrupted_at: float | None = None
        self._pid = os.getpid()

    def take(self) -> list[float]:
        """[3]: how often each of ``KINDS`` came. A request to save is then forgotten, one to stop stays."""
        with self._lock:
            asked = list(self._asked.values())
            self._asked[SIGUSR1] = 0.0
            return asked

    @contextmanager
    def acted_upon(self) -> Iterator[None]:
        """Inside, steps are taken, after which to act. Before, SIGTERM and SIGINT end the process by an error.

        Afterwards it ends anyway, and SIGTERM changes nothing.
        """
        self._acting = True
        try:
            yield
        finally:
            self._acting, self._over = False, True

    @contextmanager
    def listening(self) -> Iterator["Requests"]:
        """Take note of signals inside. Does nothing outside of the main thread, where Python has no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        # By a thread, since the main one may be inside a collective, where Python's handlers do not run.
        listener = threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True)
        listener.start()
        before = {kind: signal.signal(kind, self._in_main_thread) for kind in KINDS}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        except StopNow as stop:
            raise stop.error from None
        finally:
            signal.set_wakeup_fd(wakeup)
            ending = self._asked[SIGTERM] or self._asked[SIGINT]
            for kind, handler in before.items():
                # The exit code must not depend on a launcher that ends the last ranks when the first is gone.
                signal.signal(kind, signal.SIG_IGN if ending else handler)
            writer.close()
            listener.join()
            reader.close()

    def _listen(self, reader: socket.socket) -> None:
        while numbers := reader.recv(1):
            again = numbers[0] == SIGINT and self._asked[SIGINT] > 0
            if numbers[0] in KINDS and (self._acting or (self._over and again)):
                self._note(Signals(numbers[0]))

    def _note(self, kind: Signals) -> None:
        with self._lock:
            first = not self._asked[kind]
            self._asked[kind] += 1
        if kind == SIGINT:
            now = time.monotonic()
            if self._interrupted_at is None:
                self._interrupted_at = now
            elif now - self._interrupted_at > SECONDS_OF_ONE_KEY:
                _tell(f"{SHOW_CURSOR if sys.stderr.isatty() else ''}stopped at once; the last checkpoint is intact")
                os._exit(INTERRUPTED)
        if first and os.environ.get("RANK", "0") == "0":
            _tell(f"{kind.name}: saving after this step{AND_THEN[kind]}")

    def _in_main_thread(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that was forked off
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._acting or self._asked[SIGINT]:
            return
        elif number == SIGINT:
            raise KeyboardInterrupt
        elif number == SIGTERM and not self._over:
            raise StopNow(
                stopped(SIGTERM, "stopped before the first step. The same command with --resume starts anew.")
            )


AND_THEN = {SIGTERM: ", then stopping", SIGINT: ", then stopping; Ctrl-C again stops at once", SIGUSR1: ""}


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
