"""The folder of a run: who may write into it, and what it may hold at the start."""

import fcntl
from contextlib import ExitStack
from pathlib import Path

from mftcoder.errors import MftcoderError
from mftcoder.locks import NO_LOCKS_HERE
from mftcoder.training.checkpoint import Checkpoint, clear_incomplete, complete_checkpoints

LOCK = ".lock"


def open_output(output_dir: Path, held: ExitStack, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if ``resume`` and there is one; on rank 0 only.

    Until ``held`` is closed, or the process ends, no other process can train in ``output_dir``. MftcoderError if one
    does, if the folder cannot be written, or if it is not empty although nothing is to be resumed.
    """
    found = sorted(path.name for path in output_dir.glob("*"))  # nothing if it does not exist
    used = [name for name in found if not name.startswith("shards") and name != LOCK]
    if used and not resume:
        raise MftcoderError(
            f"output_dir: {output_dir} is not empty; found {', '.join(used[:3])}. "
            "Add --resume to go on with this run, or choose a new output_dir."
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = held.enter_context((output_dir / LOCK).open("w"))
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
    if not resume:
        return None
    clear_incomplete(output_dir)
    checkpoints = complete_checkpoints(output_dir)
    if not checkpoints:
        print(f"{output_dir}: no complete checkpoint yet; starting anew")
        return None
    print(f"resuming from {checkpoints[-1].path}")
    return checkpoints[-1]
