"""Commands in processes of their own that import little: what takes nine seconds of a core at a start is there already.

They are forked from a process that has imported torch, transformers and DeepSpeed. All else is as with
``python -m mftcoder``: the environment, what is printed, the exit code. Tests of starting, and of what comes from
outside (launchers, signals, kills), start Python.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from mftcoder.cli import main

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["mftcoder.training.run", "mftcoder.engine.deepspeed", "mftcoder.export.verify", "peft"])


def run(arguments: Sequence[str], environment: Mapping[str, str], ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """``mftcoder ARGUMENTS``, to its end; the exit code is that of the rank that ended first with another than 0."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{}] if ranks == 1 else [_place(rank, ranks) | shared for rank in range(ranks)]
    with TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        processes = [
            _SERVER.Process(target=_run, args=(list(arguments), {**environment, **place}, outputs)) for place in places
        ]
        for process in processes:
            process.start()
        code = _first_failure(processes)
        stdout, stderr = (output.read_text() for output in outputs)
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _place(rank: int, ranks: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}


def _run(arguments: list[str], environment: dict[str, str], outputs: list[Path]) -> None:
    for stream, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(arguments))


def _first_failure(processes: list[ForkServerProcess]) -> int:
    """Wait for all of them; when one fails, end the others, as launchers do."""
    code, left = 0, {process.sentinel: process for process in processes}
    while left:
        for sentinel in wait(list(left)):
            process = left.pop(sentinel)
            process.join()
            if process.exitcode and not code:
                code = process.exitcode
                for other in left.values():
                    other.terminate()
    return code
