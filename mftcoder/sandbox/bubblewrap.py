"""Containing programs by bubblewrap, which makes the namespaces; limits and the filter of system calls are ours."""

import contextlib
import os
import resource
import signal
from typing import Any

from mftcoder.sandbox import watch
from mftcoder.sandbox.namespaces import USER, first_to_go, rlimits
from mftcoder.sandbox.view import BOX, DEVICES, TEMPORARY, WORK

_PRLIMIT = {
    resource.RLIMIT_CPU: "cpu",
    resource.RLIMIT_DATA: "data",
    resource.RLIMIT_NPROC: "nproc",
    resource.RLIMIT_NOFILE: "nofile",
    resource.RLIMIT_FSIZE: "fsize",
    resource.RLIMIT_STACK: "stack",
    resource.RLIMIT_CORE: "core",
    resource.RLIMIT_MEMLOCK: "memlock",
    resource.RLIMIT_MSGQUEUE: "msgqueue",
}


def run(
    request: dict[str, Any], view: dict[str, Any], filter_program: bytes, owner: int, programs: dict[str, str]
) -> watch.Ended | str:
    """Runs a program; or says why it could not be started. ``programs``: where bwrap and prlimit are."""
    (out, out_end), (err, err_end), (state, state_end) = os.pipe(), os.pipe(), os.pipe()
    contents = {f"{WORK}/{name}": text for name, text in request["files"].items()}
    held = [_held(text.encode("utf-8", "replace")) for text in contents.values()]
    own = [_held(text.encode()) for text in view["files"].values()]
    code = _held(filter_program)
    command = [
        *(programs["bwrap"], "--unshare-all", "--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *("--uid", str(USER), "--gid", str(USER), "--seccomp", str(code), "--json-status-fd", str(state_end)),
        *_places(view, own, request["limits"]),
        *(word for path, held_by in zip(contents, held, strict=True) for word in ("--file", str(held_by), path)),
        *("--remount-ro", "/", "--chdir", WORK, programs["prlimit"]),
        *(f"--{_PRLIMIT[kind]}={value}:{value}" for kind, value in rlimits(request["limits"])),
        *("--", *request["command"]),
    ]
    process = os.fork()
    if process == 0:
        try:
            first_to_go()
            for descriptor, source in enumerate((os.open("/dev/null", os.O_RDONLY), out_end, err_end)):
                os.dup2(source, descriptor)
            for descriptor in (*held, *own, code, state_end):
                os.set_inheritable(descriptor, True)
            os.execve(command[0], command, view["environment"])
        finally:
            os._exit(1)
    for descriptor in (out_end, err_end, state_end, *held, *own, code):
        os.close(descriptor)
    ended = watch.watch(process, out, err, owner, request["limits"], _kill)
    os.set_blocking(state, False)
    with os.fdopen(state, "rb") as file:
        started = b'"exit-code"' in (file.read() or b"")
    if not ended.reason and not started:
        return ended.stderr.decode(errors="replace").strip() or "bwrap said nothing"
    return ended


def _places(view: dict[str, Any], own: list[int], limits: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for path in view["shown"]:
        words += ("--ro-bind", path, path)
    words += ("--proc", "/proc")
    for path in DEVICES:
        words += ("--dev-bind", path, path)
    for path, target in view["links"]:
        words += ("--symlink", target, path)
    for path, held_by in zip(view["files"], own, strict=True):
        words += ("--file", str(held_by), path)
    words += ("--perms", "0755", "--size", str(limits["disk_bytes"]), "--tmpfs", BOX, "--dir", WORK)
    return [*words, "--dir", TEMPORARY]


def _held(content: bytes) -> int:
    """A file in memory, as a descriptor at its beginning."""
    descriptor = os.memfd_create("sandbox")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _kill(pid: int) -> None:
    """Its child is pid 1 of the program's namespace, and takes all with it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        for child in file.read().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
