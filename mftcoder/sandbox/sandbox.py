"""The sandbox as the rest of mftcoder uses it."""

import os
import platform
import queue
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import mftcoder
from mftcoder.errors import MftcoderError, RunError
from mftcoder.sandbox.launcher import receive, send
from mftcoder.sandbox.outcome import Limits, Outcome
from mftcoder.sandbox.probe import probe
from mftcoder.sandbox.seccomp import MACHINES, filter_program
from mftcoder.sandbox.view import view

BACKENDS = ("bubblewrap", "namespaces")
PYTHON = os.path.realpath(sys.executable)  # outside of virtual environments: it sees the standard library alone

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from mftcoder.sandbox.launcher import main; main(int(sys.argv[2]))"
)
_PATIENCE = 120.0  # seconds beyond the limit in which a launcher must answer, however busy the machine is
_GOODBYE = 5.0  # seconds for a launcher to end when its socket is closed
_REMEDY = (
    "Install bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns; in a container, seccomp and systempaths unconfined), or leave out "
    "what executes programs."
)


class Sandbox:
    """Runs programs contained, several at the same time; see ``Limits`` for what each may use.

    A program sees the system's programs and libraries and the given toolchains, read-only, an empty folder of its own
    that ends with it, and no network, no environment, no process but its own. Nothing but what it prints is read back.
    """

    def __init__(
        self, *, workers: int = 1, folders: Iterable[Path] = (), search: Iterable[Path] = (), backend: str | None = None
    ) -> None:
        """Starts it, and has it prove that a hostile program is contained on this machine.

        Args:
            workers: programs at the same time.
            folders: what programs need to see outside of the system's folders: toolchains.
            search: folders of programs, for PATH.
            backend: one of ``BACKENDS``; by default the first that works.

        Raises MftcoderError where none contains programs: they are never run otherwise.
        """
        python = Path(PYTHON).parents[1]
        self._view = view([python, *folders], search)
        self.backend, first = _first_contained(self._view, [backend] if backend else _preferred())
        self._all = [first]
        self._free: queue.LifoQueue[_Launcher] = queue.LifoQueue()
        self._free.put(first)
        try:
            for _ in range(workers - 1):
                self._all.append(_Launcher(self.backend, self._view))
                self._free.put(self._all[-1])
        except OSError as error:
            self.close()
            raise RunError(f"the sandbox: a further worker does not start: {error}") from error

    def run(self, files: Mapping[str, str], command: Sequence[str], limits: Limits | None = None) -> Outcome:
        """Runs ``command`` in a folder that holds ``files``: names, which may have folders in them, to contents.

        May be called in several threads; waits for a free worker. The command's program is looked for in PATH.

        Raises RunError where the program could not be started, through no fault of its own.
        """
        limits = limits or Limits()
        request = {"files": dict(_checked(files, limits)), "command": list(command), "limits": asdict(limits)}
        launcher = self._free.get()
        try:
            try:
                return launcher.ask(request, limits.wall_seconds + _PATIENCE)
            except OSError:  # it was killed, as when the machine has no memory left
                launcher = self._replaced(launcher)
                return launcher.ask(request, limits.wall_seconds + _PATIENCE)
        except OSError as error:
            raise RunError(f"the sandbox ({self.backend}) has failed twice in a row: {error}") from error
        finally:
            self._free.put(launcher)

    def _replaced(self, launcher: "_Launcher") -> "_Launcher":
        launcher.close()
        self._all[self._all.index(launcher)] = new = _Launcher(self.backend, self._view)
        return new

    def close(self) -> None:
        """Ends it, with all that runs in it."""
        for launcher in self._all:
            launcher.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Launcher:
    """The process that starts programs, from the outside. Raises OSError where it does not work."""

    def __init__(self, backend: str, view: dict[str, Any]) -> None:
        task = {"backend": backend, "view": view, "filter": filter_program().hex()}
        if backend == "bubblewrap":
            task["programs"] = _bubblewrap_programs()
        self._connection, theirs = socket.socketpair()
        with theirs:
            root = str(Path(mftcoder.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", _START, root, str(theirs.fileno())],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            self._connection.settimeout(_PATIENCE)
            send(self._connection, task)
            self._answer()
        except OSError:
            self.close()
            raise

    def ask(self, request: dict[str, Any], timeout: float) -> Outcome:
        self._connection.settimeout(timeout)
        send(self._connection, request)
        return Outcome(**self._answer())

    def _answer(self) -> dict[str, Any]:
        answer = receive(self._connection)
        if answer is None:
            raise ConnectionError("its launcher has ended")
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(_GOODBYE)  # by itself, so that its processor time is known
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _preferred() -> list[str]:
    """Bubblewrap cannot give programs of root another user, without whom their processes are not limited."""
    return ["namespaces"] if os.geteuid() == 0 else list(BACKENDS)


def _bubblewrap_programs() -> dict[str, str]:
    found = {name: shutil.which(name) for name in ("bwrap", "prlimit")}
    if missing := [name for name, path in found.items() if path is None]:
        raise FileNotFoundError(f"{' and '.join(missing)} not found")
    return {name: os.path.realpath(path) for name, path in found.items() if path}


def _first_contained(view: dict[str, Any], backends: Sequence[str]) -> tuple[str, _Launcher]:
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise MftcoderError(f"the sandbox needs Linux on one of {', '.join(MACHINES)}; this is {platform.platform()}.")
    failures = []
    for backend in backends:
        try:
            launcher = _Launcher(backend, view)
        except OSError as error:
            failures.append(f"{backend}: {error}")
            continue
        try:
            leaks = probe(launcher.ask, PYTHON)
        except OSError as error:
            leaks = [f"the probe does not run: {error}"]
        if not leaks:
            return backend, launcher
        launcher.close()
        failures.append(f"{backend}: {'; '.join(leaks)}")
    raise MftcoderError(
        "the sandbox: programs cannot be contained on this machine, so none is run. "
        f"Found: {'. '.join(failures)}. {_REMEDY}"
    )


def _checked(files: Mapping[str, str], limits: Limits) -> Iterator[tuple[str, str]]:
    """The files, where they fit the scratch folder; MftcoderError where they do not."""
    if (size := sum(len(text.encode("utf-8", "replace")) for text in files.values())) > limits.disk_bytes // 2:
        raise MftcoderError(f"the files of a program: are {size:,} bytes; at most {limits.disk_bytes // 2:,} fit.")
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name or name == ".":
            raise MftcoderError(f"the file {name!r} of a program: must be a relative path without ...")
        yield name, text
