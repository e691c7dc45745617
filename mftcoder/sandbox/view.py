"""What of this machine a program sees: the system's programs and libraries, toolchains, and little else, read-only."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mftcoder.errors import MftcoderError

BOX = "/box"  # the only place that can be written; it lies in memory and ends with the program
WORK = f"{BOX}/work"  # where programs start, and their home
TEMPORARY = f"{BOX}/tmp"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "java*")
_LINKS = (
    ("/tmp", TEMPORARY),
    ("/var/tmp", TEMPORARY),
    ("/dev/shm", TEMPORARY),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_FILES = {
    "/etc/passwd": f"sandbox:x:1000:1000::{WORK}:/bin/sh\n",
    "/etc/group": "sandbox:x:1000:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def view(folders: Iterable[Path], search: Iterable[Path] = ()) -> dict[str, Any]:
    """The view as JSON: ``shown`` folders and files, ``links``, ``files`` with given contents, ``environment``.

    Args:
        folders: toolchains outside the system's folders.
        search: folders of programs, before the system's in PATH.
    """
    links = list(_LINKS)
    shown = []
    for path in _SYSTEM:
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            shown.append(path)
    for pattern in _ETC:
        shown += [str(path) for path in sorted(Path("/etc").glob(pattern)) if path.exists()]
    for folder in folders:
        real = _harmless(folder)
        if not any(real.is_relative_to(path) for path in shown):
            shown.append(str(real))
    links = [link for link in links if not any(Path(path).is_relative_to(link[0]) for path in shown)]
    programs = dict.fromkeys([*map(str, search), "/usr/local/bin", "/usr/bin", "/bin"])
    environment = {"PATH": ":".join(programs), "HOME": WORK, "TMPDIR": TEMPORARY, "LANG": "C.UTF-8", "TZ": "UTC"}
    return {"shown": shown, "links": links, "files": _FILES, "environment": environment}


def _harmless(folder: Path) -> Path:
    """The real path of a folder that may be shown; MftcoderError where more than a toolchain lies in it."""
    real = folder.resolve()
    private = [
        Path.home().resolve(),
        Path("/root"),
        Path("/tmp"),
        Path("/run"),
        Path("/var"),
        Path("/dev"),
        Path("/etc"),
    ]
    if real == Path("/home") or any(path.is_relative_to(real) for path in private):
        raise MftcoderError(
            f"{folder}: a program in the sandbox would see all of {real}. Install the toolchain in a folder of its own."
        )
    return real
