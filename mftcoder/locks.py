"""Locks between processes: files that count while a process holds them, whether or not they are there."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network file systems


@contextmanager
def locked(path: Path, what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock ``path``, on this and, where the file system has locks, all machines; the file goes with the block.

    Waits while another process holds it, and tells that ``what`` is what it waits for.
    """
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            has_locks = _lock(file, path, what, tell)
            if not _is_still(file, path):  # whoever had it before has removed it meanwhile
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                if has_locks:  # closing the file would not do while a forked process has it open too
                    fcntl.flock(file, fcntl.LOCK_UN)
            return


def _lock(file: TextIO, path: Path, what: str, tell: Callable[[str], None]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(f"{path}: waiting for another process: {what}")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
        tell(f"{path.parent}: this file system has no locks, so another process at work here would not be noticed")
        return False
    return True


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
