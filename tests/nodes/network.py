"""Nodes on one machine: network namespaces with names of their own, on a switch."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from end_to_end_project import ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
WITHIN = ("ip", "netns", "exec")
ADDRESSES, PORT = "10.77.0.", 29500


def why_not() -> str | None:
    """Why there can be no nodes here, if so."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "needs ip (iproute2) and unshare (util-linux)"
    if subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True).returncode:
        return "this machine does not allow namespaces"
    return None


def ip(*arguments: str, inside: str | None = None) -> None:
    within = [*WITHIN, inside] if inside else []
    subprocess.run([*within, "ip", *arguments], check=True, capture_output=True)


@dataclass
class Node:
    """A network namespace in which programs run under the host name ``name``."""

    name: str
    number: int
    namespace: str
    switch: str
    logs: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *command: object, before: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start ``command`` here; ``before`` is a line of shell that runs as root of the node's own mounts."""
        shell = f'hostname {self.name}; {before}\nexec "$@"'
        log = (self.logs / f"{self.name}.log").open("a")
        process = subprocess.Popen(
            [*WITHIN, self.namespace, "unshare", "--uts", "--mount", "bash", "-c", shell, "bash", *map(str, command)],
            env=self._environment() | environment,
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self.processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        launchers = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}  # of runs inside pytest
        clean = {key: value for key, value in ENVIRONMENT.items() if key not in launchers}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        master = {"MASTER_ADDR": f"{ADDRESSES}1", "MASTER_PORT": str(PORT)}
        return clean | master | {"PATH": path, "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(REPOSITORY)}

    @property
    def output(self) -> str:
        """All that its programs printed."""
        return (self.logs / f"{self.name}.log").read_text()

    def ranks(self) -> list[int]:
        """The process ids of the program's ranks."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found if b"\0mftcoder\0train\0" in _command_line(pid) and not _launches(pid)]

    def unplug(self) -> None:
        """Take its cable out."""
        ip("link", "set", f"port{self.number}", "down", inside=self.switch)

    def kill(self) -> None:
        """End all its programs at once, as a loss of power does."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-9", *found], capture_output=True)


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _launches(pid: str) -> bool:
    words = [word.rpartition(b"/")[2] for word in _command_line(pid).split(b"\0")]  # a path may hold any of the names
    return any(word.startswith((b"torchrun", b"deepspeed", b"ranks.sh")) for word in words)


@contextmanager
def network(number: int, logs: Path) -> Iterator[list[Node]]:
    """``number`` nodes, called node-a, node-b …, that reach each other."""
    prefix = f"mft{os.getpid()}"
    switch = f"{prefix}-switch"
    with ExitStack() as stack:

        def add(namespace: str) -> None:
            ip("netns", "add", namespace)
            stack.callback(lambda: subprocess.run(["ip", "netns", "del", namespace], capture_output=True))
            ip("link", "set", "lo", "up", inside=namespace)

        add(switch)
        ip("link", "add", "bridge", "type", "bridge", inside=switch)
        ip("link", "set", "bridge", "up", inside=switch)
        nodes = []
        for index in range(number):
            node = Node(f"node-{'abcd'[index]}", index, f"{prefix}-{'abcd'[index]}", switch, logs)
            add(node.namespace)
            ends = ["type", "veth", "peer", "name", "eth0", "netns", node.namespace]
            ip("link", "add", f"port{index}", *ends, inside=switch)
            ip("link", "set", f"port{index}", "master", "bridge", "up", inside=switch)
            ip("addr", "add", f"{ADDRESSES}{index + 1}/24", "dev", "eth0", inside=node.namespace)
            ip("link", "set", "eth0", "up", inside=node.namespace)
            nodes.append(node)
            stack.callback(node.kill)
        yield nodes


def ended(processes: Sequence[subprocess.Popen[str]], seconds: float) -> list[int]:
    """The exit codes; AssertionError if one has not ended within ``seconds``."""
    end = time.monotonic() + seconds
    return [process.wait(max(0.1, end - time.monotonic())) for process in processes]


def until(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
