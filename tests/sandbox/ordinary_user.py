"""A sandbox of an ordinary user, for tests that run as root: it lives in a process of that user."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import mftcoder
from mftcoder.sandbox.launcher import receive, send
from mftcoder.sandbox.outcome import Limits, Outcome

_NOBODY = 65534
_SYSTEM_PYTHON = "/usr/bin/python3"  # the one of the tests may lie where only root gets
_SERVE = """\
import socket, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
from mftcoder.sandbox.launcher import receive, send
from mftcoder.sandbox.sandbox import Sandbox
from mftcoder.sandbox.outcome import Limits
connection = socket.socket(fileno=int(sys.argv[2]))
try:
    sandbox = Sandbox(backend=sys.argv[3])
except Exception as error:
    send(connection, {"refused": str(error)})
    sys.exit()
send(connection, {"ready": True})
while (request := receive(connection)) is not None:
    limits = Limits(**request["limits"])
    send(connection, asdict(sandbox.run(request["files"], request["command"], limits)))
"""


class Remote:
    """As ``Sandbox``, in the other process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def run(self, files: Mapping[str, str], command: Sequence[str], limits: Limits) -> Outcome:
        send(self._connection, {"files": dict(files), "command": list(command), "limits": asdict(limits)})
        return Outcome(**receive(self._connection))


@contextmanager
def sandbox_of_ordinary_user(backend: str) -> Iterator[tuple[Remote, str]]:
    """The sandbox, and the Python for programs in it. Raises RuntimeError where there can be none."""
    found = subprocess.run(
        [_SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True
    )
    if found.stdout.strip() != b"True":
        raise RuntimeError(f"{_SYSTEM_PYTHON} is older than 3.11")
    package = Path(mftcoder.__file__).parent
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "mftcoder"
        copy.mkdir()
        for name in ("__init__.py", "errors.py"):
            shutil.copy(package / name, copy / name)
        shutil.copytree(package / "sandbox", copy / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [_SYSTEM_PYTHON, "-B", "-c", _SERVE, folder, str(theirs.fileno()), backend],
            user=_NOBODY,
            group=_NOBODY,
            extra_groups=[],
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "MFTCODER_SECRET": "parent-of-all"},
            cwd="/",
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            first = receive(ours)
            if "refused" in first:
                raise RuntimeError(first["refused"])
            yield Remote(ours), os.path.realpath(_SYSTEM_PYTHON)
        finally:
            ours.close()
            process.wait(60)
