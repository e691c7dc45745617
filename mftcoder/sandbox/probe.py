"""A hostile program, run at the start of every sandbox: what it gets at is a reason not to run any other."""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mftcoder.sandbox.outcome import MIB, Limits, Outcome

_LIMITS = Limits(cpu_seconds=20, wall_seconds=120, memory_bytes=256 * MIB, processes=16, file_bytes=MIB)
_ENVIRONMENT = {"PATH", "HOME", "TMPDIR", "LANG", "TZ", "PWD", "LC_CTYPE"}
_PROGRAM = """\
import json, os, resource, socket, sys

told = json.loads(sys.argv[1])
leaks = []


def must_fail(what, attempt, *arguments):
    try:
        attempt(*arguments)
    except (OSError, ValueError, MemoryError):
        return
    leaks.append(what)


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)


def write(path):
    with open(path, "w") as file:
        file.write("x")


def fork_all():
    started = []
    try:
        for _ in range(told["processes"] + 8):
            pid = os.fork()
            if pid == 0:
                os.close(release)
                os.read(waiting, 1)
                os._exit(0)
            started.append(pid)
    finally:
        os.close(release)
        for pid in started:
            os.waitpid(pid, 0)


for path in told["secrets"]:
    must_fail(f"it can read {path}", os.stat, path)
for path in ("/", "/usr", "/etc", "/dev", "/proc/sys/kernel", *told["homes"]):
    must_fail(f"it can write in {path}", write, os.path.join(path, "mftcoder-probe"))
must_fail("it reaches the network of this machine", connect, socket.AF_INET, ("127.0.0.1", told["port"]))
must_fail("it reaches abstract sockets of this machine", connect, socket.AF_UNIX, chr(0) + told["abstract"])
must_fail("it reaches the network", connect, socket.AF_INET, ("192.0.2.1", 80))
must_fail("it can use sockets of any family", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)
must_fail("it can raise its limits", resource.setrlimit, resource.RLIMIT_NOFILE, (10**6, 10**6))
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file if ":" in line)
for field, wanted in (("CapEff", 0), ("CapPrm", 0), ("CapBnd", 0), ("NoNewPrivs", 1), ("Seccomp", 2)):
    if int(status[field], 16) != wanted:
        leaks.append(f"{field} is {status[field].strip()}")
if os.getuid() == 0:
    leaks.append("it is root")
if names := set(os.environ) - set(told["environment"]):
    leaks.append(f"it sees the environment ({', '.join(sorted(names))})")
if len([name for name in os.listdir("/proc") if name.isdigit()]) > 4:
    leaks.append("it sees other processes")
if len(os.listdir("/proc/self/fd")) > 4:
    leaks.append("it has open files of other processes")
waiting, release = os.pipe()
must_fail("its processes are not limited", fork_all)
must_fail("its memory is not limited", bytearray, told["memory"])
print(json.dumps(leaks))
"""


def probe(ask: Callable[[dict[str, Any], float], Outcome], python: str) -> list[str]:
    """What a program gets at that it must not, in words.

    Args:
        ask: runs a request, within so many seconds.
        python: the interpreter, as the program sees it.
    """
    abstract = f"mftcoder-probe-{os.getpid()}-{threading.get_ident()}"
    with (
        tempfile.NamedTemporaryFile(prefix="mftcoder-probe-") as secret,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local,
    ):
        local.bind("\0" + abstract)
        local.listen()
        told = {
            "secrets": [secret.name, "/etc/shadow", "/sys/kernel", f"/proc/{os.getpid()}/root"],
            "homes": [os.path.expanduser("~"), os.getcwd()],
            "port": server.getsockname()[1],
            "abstract": abstract,
            "environment": sorted(_ENVIRONMENT),
            "processes": _LIMITS.processes,
            "memory": 2 * _LIMITS.memory_bytes,
        }
        command = [python, "-I", "-S", "-c", _PROGRAM, json.dumps(told)]
        outcome = ask({"files": {}, "command": command, "limits": asdict(_LIMITS)}, 2 * _LIMITS.wall_seconds)
    if not outcome.ok:
        return [f"the probe ended with {outcome.reason}: {outcome.stderr.strip()[-400:]}"]
    leaks: list[str] = json.loads(outcome.stdout)
    return leaks
