"""Calls to the Linux kernel for which Python 3.11 has no functions; all raise OSError.

Only the standard library is imported here and in all that ``launcher`` imports: it starts in milliseconds.
"""

import ctypes
import os
import platform

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 24, 38, 22

_SIGCHLD, _AT_RECURSIVE, _AT_FDCWD, _MNT_DETACH, _SECCOMP_MODE_FILTER = 17, 0x8000, -100, 2, 2
_MOUNT_SETATTR = 442  # the same on every machine
_CLONE = {"x86_64": 56, "aarch64": 220}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_forking = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, which the child could not get back


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def clone(flags: int) -> int:
    """Fork into new namespaces. The process must have a single thread."""
    number = _CLONE[platform.machine()]
    return _checked(
        _forking.syscall(number, ctypes.c_ulong(flags | _SIGCHLD), None, None, None, None), "new namespaces"
    )


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _checked(result, f"mount {target}")


def restrict_mount(target: str, attributes: int) -> None:
    """Add ``attributes`` to a mount and to all below it."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)  # struct mount_attr: set, clear, propagation, user namespace
    result = _libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted)
    )
    _checked(result, f"restrict {target}")


def pivot_root(new: str, old: str) -> None:
    _checked(_libc.syscall(_PIVOT_ROOT[platform.machine()], os.fsencode(new), os.fsencode(old)), "pivot_root")


def detach(target: str) -> None:
    """Unmount, even where it is in use."""
    _checked(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def drop_capabilities() -> None:
    """None can come back at an execve. Those that this process has go when it becomes another user or executes."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)


def filter_system_calls(program: bytes) -> None:
    """Put a seccomp filter on this process and its children for good."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    filled = Program(len(program) // 8, program)
    address = ctypes.cast(ctypes.byref(filled), ctypes.c_void_p).value or 0
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_ulong(address), zero, zero)
    _checked(result, "seccomp filter")
