"""The filter of system calls, as a program for the kernel.

Programs have no capabilities in their namespaces, so most of these calls would fail anyway. The filter keeps them
from the parts of the kernel in which most holes were found, and from memory that no limit counts.
"""

import errno
import platform
import struct
from collections.abc import Iterator

# name: number on x86_64, number on aarch64 (None: it has none)
REFUSED: dict[str, tuple[int, int | None]] = {
    # namespaces and mounts
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # the kernel itself
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "modify_ldt": (154, None),
    "ioperm": (173, None),
    "iopl": (172, None),
    # memory that belongs to no process
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# Libraries do without these where the kernel does not know them. The arguments of clone3 cannot be filtered.
UNKNOWN: dict[str, tuple[int, int]] = {
    "memfd_create": (319, 279),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
MACHINES = ("x86_64", "aarch64")

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE, _SOCKET = (56, 220), (41, 198)
_NEW_NAMESPACES = 0x7E020000
_SOCKET_FAMILIES = (1, 2, 10)  # unix, IPv4, IPv6: in a network without any interface
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def filter_program(machine: str | None = None) -> bytes:
    """The filter for a kind of machine, this one's by default; KeyError where it is none of ``MACHINES``."""
    return b"".join(_instructions(machine or platform.machine()))


def _instructions(machine: str) -> Iterator[bytes]:
    arch, column = _AUDIT_ARCH[machine], MACHINES.index(machine)
    yield from (_step(_LOAD, _ARCH), _step(_EQUAL, arch, then=1), _step(_RETURN, _KILL))
    yield _step(_LOAD, _NUMBER)
    if machine == "x86_64":
        yield from (_step(_AT_LEAST, _X32, if_not=1), _step(_RETURN, _ERROR | errno.ENOSYS))
    for calls, error in ((REFUSED, errno.EPERM), (UNKNOWN, errno.ENOSYS)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                yield from (_step(_EQUAL, number, if_not=1), _step(_RETURN, _ERROR | error))
    yield _step(_EQUAL, _CLONE[column], if_not=4)
    yield from (_step(_LOAD, _ARGUMENT), _step(_ANY_BIT, _NEW_NAMESPACES, if_not=1))
    yield from (_step(_RETURN, _ERROR | errno.EPERM), _step(_RETURN, _ALLOW))
    yield _step(_EQUAL, _SOCKET[column], if_not=len(_SOCKET_FAMILIES) + 2)
    yield _step(_LOAD, _ARGUMENT)
    for position, family in enumerate(_SOCKET_FAMILIES):
        yield _step(_EQUAL, family, then=len(_SOCKET_FAMILIES) - position)
    yield _step(_RETURN, _ERROR | errno.EAFNOSUPPORT)
    yield _step(_RETURN, _ALLOW)


def _step(code: int, value: int, *, then: int = 0, if_not: int = 0) -> bytes:
    """An instruction; ``then`` and ``if_not``: how many to skip where a comparison holds, or does not."""
    return struct.pack("=HBBI", code, then, if_not, value)
