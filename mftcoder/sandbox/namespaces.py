"""Containing programs by namespaces of our own.

::

    launcher              as whoever started mftcoder
    `- keeper             pid 1 in namespaces of its own (user, mount, pid, network, ipc, uts, cgroup), made once
       `- first process   pid 1 of one program: pid and mount namespaces and a scratch folder of its own
          `- program      another user than root, without any capability, behind the filter of system calls
"""

import contextlib
import os
import resource
import signal
import socket
from typing import Any

from mftcoder.sandbox import kernel, watch
from mftcoder.sandbox.kernel import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY
from mftcoder.sandbox.view import BOX, DEVICES, TEMPORARY, WORK

USER = 1000  # as programs see themselves
_NOBODY = 65534  # whom root's programs run as
_OLD = "/.old"
_NOT_FOUND = 127
_STACK = 8 * 2**20
_MESSAGE = 64 * 2**10  # bytes of error messages


def keeper_process() -> int:
    """Forks the keeper: 0 in it, once its users are mapped; its pid in the launcher."""
    ready, go = os.pipe()
    spaces = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    keeper = kernel.clone(spaces | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP)
    if keeper == 0:
        os.close(go)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if not os.read(ready, 1):
            os._exit(1)
        os.close(ready)
        return 0
    os.close(ready)
    try:
        _map_users(keeper)
        os.write(go, b"x")
    except OSError:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        raise
    finally:
        os.close(go)
    return keeper


def _map_users(pid: int) -> None:
    """As root, programs get a user of their own; else there is only the one who started mftcoder."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        users = groups = f"0 0 1\n{USER} {_NOBODY} 1\n"
    else:
        users, groups = f"{USER} {user} 1\n", f"{USER} {group} 1\n"
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", users)
    _write(f"/proc/{pid}/gid_map", groups)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def prepare_root(view: dict[str, Any]) -> None:
    """Turns this process's mount namespace into what programs see; nothing else of the machine stays."""
    socket.sethostname("sandbox")
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    os.mkdir("/tmp" + _OLD)
    kernel.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for path in view["shown"]:
        _show(path, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
    for path in DEVICES:
        _show(path, ATTR_NOSUID | ATTR_NOEXEC)
    for path, target in view["links"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    for path, text in view["files"].items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
    os.mkdir(BOX)
    os.mkdir("/proc")
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.detach(_OLD)
    os.rmdir(_OLD)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, flags)


def _show(path: str, attributes: int) -> None:
    source = _OLD + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.restrict_mount(path, attributes)


def run(request: dict[str, Any], view: dict[str, Any], filter_program: bytes, owner: int) -> watch.Ended | str:
    """Runs a program; or says why it could not be started."""
    (out, out_end), (err, err_end), (trouble, trouble_end) = os.pipe(), os.pipe(), os.pipe()
    first = kernel.clone(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    if first == 0:
        code = 1
        try:
            code = _first_process(request, view, filter_program, (out_end, err_end, trouble_end))
        except BaseException as error:
            os.write(trouble_end, str(error).encode()[:_MESSAGE])
        finally:
            os._exit(code)
    for descriptor in (out_end, err_end, trouble_end):
        os.close(descriptor)
    ended = watch.watch(first, out, err, owner, request["limits"], _kill)
    with os.fdopen(trouble, "rb") as file:  # all who could write there are dead
        message = file.read(_MESSAGE).decode(errors="replace")
    return message or ended


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _first_process(
    request: dict[str, Any], view: dict[str, Any], filter_program: bytes, ends: tuple[int, int, int]
) -> int:
    """As pid 1: starts the program, takes care of orphans, and returns the program's exit code as shells tell it."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    limits = request["limits"]
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    options = f"mode=755,uid={USER},gid={USER},size={limits['disk_bytes']},nr_inodes={limits['files']}"
    kernel.mount("tmpfs", BOX, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for folder in (WORK, TEMPORARY):
        os.mkdir(folder)
        os.chown(folder, USER, USER)
    _fill(request["files"])
    program = os.fork()
    if program == 0:
        try:
            _become(request, view, filter_program, ends)
        except BaseException as error:
            os.write(ends[2], str(error).encode()[:_MESSAGE])
        finally:
            os._exit(_NOT_FOUND)
    for descriptor in ends[:2]:
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def first_to_go() -> None:
    """If this machine runs out of memory, this process is the one to end."""
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", "1000")


def _fill(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = os.path.join(WORK, name)
        folder = os.path.dirname(path)
        while not os.path.isdir(folder):  # those between belong to the program, too
            above = folder
            while not os.path.isdir(os.path.dirname(above)):
                above = os.path.dirname(above)
            os.mkdir(above)
            os.chown(above, USER, USER)
        with open(path, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
        os.chown(path, USER, USER)


def _become(request: dict[str, Any], view: dict[str, Any], filter_program: bytes, ends: tuple[int, int, int]) -> None:
    """Turns this process into the program; returns only where there is none."""
    os.setsid()
    first_to_go()
    for descriptor, source in enumerate((os.open("/dev/null", os.O_RDONLY), *ends[:2])):
        os.dup2(source, descriptor)
    trouble = ends[2]
    os.closerange(3, trouble)
    os.closerange(trouble + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir(WORK)
    kernel.drop_capabilities()
    if os.geteuid() == 0:
        os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    for kind, value in rlimits(request["limits"]):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.filter_system_calls(filter_program)
    try:
        os.execvpe(request["command"][0], request["command"], view["environment"])
    except OSError as error:
        os.write(2, f"{request['command'][0]}: {error.strerror}\n".encode())
        os._exit(_NOT_FOUND)


def rlimits(limits: dict[str, Any]) -> list[tuple[int, int]]:
    """The limits that the kernel keeps for each process (of processes: for the user)."""
    return [
        (resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + 1),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_STACK, _STACK),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
