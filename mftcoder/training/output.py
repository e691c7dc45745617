"""The folder of a run: who may write into it, and what it may hold at the start."""

import fcntl
import os
import secrets
from contextlib import ExitStack
from pathlib import Path

from mftcoder.distributed import Group, wait
from mftcoder.errors import MftcoderError
from mftcoder.locks import NO_LOCKS_HERE
from mftcoder.training.checkpoint import Checkpoint, clear_incomplete, complete_checkpoints, find_checkpoint

LOCK = ".lock"
SECONDS_TO_SEE = 60.0  # for what one host writes to show on the others: NFS may cache for so long
LEFT = "left-at-step"  # folders of checkpoints that a run went back behind


def open_output(output_dir: Path, held: ExitStack, *, resume: str | None) -> Checkpoint | None:
    """The checkpoint to go on from, by ``resume``: "last", "best" or "step-N", if there is any; on rank 0 only.

    Until ``held`` is closed, or the process ends, no other process can train in ``output_dir``. MftcoderError if one
    does, if the folder cannot be written, or if it is not empty although nothing is to be resumed.
    """
    found = sorted(path.name for path in output_dir.glob("*"))  # nothing if it does not exist
    used = [name for name in found if not name.startswith("shards") and name != LOCK]
    if used and resume is None:
        raise MftcoderError(
            f"output_dir: {output_dir} is not empty; found {', '.join(used[:3])}. "
            "Add --resume to go on with this run, or choose a new output_dir."
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = held.enter_context((output_dir / LOCK).open("a"))
    except OSError as error:
        raise MftcoderError(f"output_dir: cannot write {output_dir}: {error.strerror}. Choose another one.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise MftcoderError(
                f"output_dir: another process is training in {output_dir}. Choose another one."
            ) from error
        print(f"{output_dir}: this file system has no locks, so a second run in it would not be noticed")
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")  # for kill -USR1 $(cat OUTPUT_DIR/.lock)
    lock.flush()
    if resume is None:
        return None
    clear_incomplete(output_dir)
    if not complete_checkpoints(output_dir):
        print(f"{output_dir}: no complete checkpoint yet; starting anew")
        return None
    checkpoint = find_checkpoint(output_dir, resume)
    print(f"resuming from {checkpoint.path}")
    return checkpoint


def check_shared(folder: Path, key: str, group: Group) -> None:
    """MftcoderError that names the hosts on which ``folder``, of the setting ``key``, is not rank 0's. Collective."""
    if group.size == 1:
        return
    token = group.on_main(lambda: _leave_token(folder))
    unseen = group.without(wait(lambda: _has(folder, token), SECONDS_TO_SEE))

    def judge() -> None:
        (folder / token).unlink(missing_ok=True)
        if unseen:
            raise MftcoderError(
                f"{key}: {folder} is another folder on {unseen} than for rank 0, so parts of every checkpoint would be "
                "missing. Choose one on a file system that all nodes share."
            )

    group.on_main(judge)


def _leave_token(folder: Path) -> str:
    name = f".seen-by-all-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise MftcoderError(f"cannot write {folder}: {error.strerror}. Choose another one.") from error
    return name


def _has(folder: Path, name: str) -> bool:
    try:
        return name in os.listdir(folder)  # a look at the name alone may be answered from a cache
    except OSError:
        return False


def set_aside_later(output_dir: Path, step: int) -> None:
    """Move checkpoints after ``step`` out of the way: the run goes on from ``step`` and will write others."""
    later = [checkpoint.path for checkpoint in complete_checkpoints(output_dir) if checkpoint.step > step]
    if not later:
        return
    aside = output_dir / f"{LEFT}-{step:06d}"
    while aside.exists():
        aside = aside.with_name(aside.name + "-again")
    aside.mkdir()
    for path in reversed(later):  # newest first: should this be interrupted, the run ends earlier
        path.rename(aside / path.name)
    print(f"{', '.join(path.name for path in later)}: moved to {aside}; delete it if they are not needed any more")
