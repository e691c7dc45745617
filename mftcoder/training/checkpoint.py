"""Checkpoints: the engine's files, and one JSON that is written last and makes the checkpoint complete.

    OUTPUT/checkpoints/step-000300/engine/…          weights and optimizer state, as DeepSpeed writes them
    OUTPUT/checkpoints/step-000300/checkpoint.json   state, settings, and the size and digest of every file above

A folder without its checkpoint.json does not count and is cleared away by the next save. Files, and then their names,
are on the disk before it is written. The file system must rename at once within a folder, and show what one host has
written and closed to others that open it afterwards, as local disks, NFS and Lustre do. DeepSpeed's files are pickles;
they are opened only after their digests match, and if no other pickle lies beside them, so a checkpoint is trusted
exactly as far as its checkpoint.json is.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine
from mftcoder.errors import MftcoderError, RunError
from mftcoder.json_values import check_values, parse_json

STATE = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]


def complete_checkpoints(output_dir: Path) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    found = []
    for path in (output_dir / "checkpoints").glob(f"step-*/{STATE}"):
        try:
            state = parse_json(path.read_text(encoding="utf-8"), "not readable")
            check_values(state, "not readable")
            found.append(Checkpoint(path.parent, state))
            _check(state)
        except (OSError, UnicodeDecodeError, MftcoderError) as error:
            raise MftcoderError(f"{path}: {error} Delete the folder to resume from an earlier one.") from error
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _check(state: Any) -> None:
    """MftcoderError if ``state`` is not of the shape that ``save_checkpoint`` wrote, or names files elsewhere."""
    kinds = {"step": int, "best_step": int | None, "files": dict}
    if not isinstance(state, dict):
        raise MftcoderError("is damaged: it is no JSON object.")
    for key, kind in kinds.items():
        if key not in state or not isinstance(state[key], kind) or isinstance(state[key], bool):
            raise MftcoderError(f"is damaged: its {key} is not what was written.")
    for name in state["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise MftcoderError(f"names the file {name}, which lies outside the checkpoint. Do not use it.")


@contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what a state that was not written by ``save_checkpoint`` makes fail into an error that names its file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise MftcoderError(
            f"{checkpoint.path / STATE}: is damaged: {type(error).__name__}: {error}. Delete the folder to resume from "
            "an earlier one."
        ) from error


def find_checkpoint(output_dir: Path, which: str) -> Checkpoint:
    """The checkpoint called "last", "best" or "step-N" (MftcoderError if there is none).

    The best is that of the lowest mean of validation-loss ratios; of a run that validated nothing, the last.
    """
    found = complete_checkpoints(output_dir)
    if not found:
        raise MftcoderError(f"{output_dir}: found no complete checkpoint in {output_dir / 'checkpoints'}.")
    best_step = found[-1].state["best_step"]
    if which == "last" or (which == "best" and best_step is None):
        return found[-1]
    name = f"step-{best_step}" if which == "best" else which
    named = [c for c in found if name in (c.path.name, f"step-{c.step}")]
    if not named:
        wanted = f"the best validation was at step {best_step}, but" if which == "best" else f'no "{which}":'
        names = ", ".join(c.path.name for c in found)
        raise MftcoderError(f"{output_dir}: {wanted} the checkpoints kept are {names}. Name one of them, or the last.")
    return named[0]


def save_checkpoint(output_dir: Path, engine: Engine, state: Mapping[str, Any], group: Group, keep: int | None) -> None:
    """Write ``state`` (its "step" names the folder) and the engine's files; then delete beyond ``keep``. Collective.

    Never deletes the checkpoint of ``state["best_step"]`` or the one just written.
    """
    path = output_dir / "checkpoints" / f"step-{state['step']:06d}"
    if group.is_main:
        clear_incomplete(output_dir)
    group.barrier()
    try:
        engine.save(path)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(path, ignore_errors=True)
        raise RunError(
            f"{path}: the checkpoint could not be written: {error}. Those before are intact: make room, then --resume."
        ) from error
    group.barrier()
    files: dict[str, Any] = {}
    try:
        mine = {name: _describe(path / name, sync=True) for name in _my_files(path, group)}
        _sync_folders(path)
        for part in group.gather(mine):
            files |= part
        if group.is_main:
            write_json(path / STATE, {**state, "files": files})
            _clear_old(output_dir, state["best_step"], keep)
    except OSError as error:
        raise RunError(
            f"{path}: the checkpoint was written but could not be completed: {error}. Those before are intact: mend "
            "that, then --resume."
        ) from error
    group.barrier()


def verify_files(checkpoint: Checkpoint, group: Group) -> None:
    """MftcoderError that names the files which are missing, not as they were written, or were not written. Collective.

    DeepSpeed opens all pickles of the right names: one that no run wrote would be opened unchecked.
    """
    expected = checkpoint.state["files"]
    there = {str(file.relative_to(checkpoint.path)) for file in checkpoint.path.rglob("*.pt")}
    if foreign := sorted(there - expected.keys()):
        raise MftcoderError(
            f"{checkpoint.path}: {', '.join(foreign[:3])} {'does' if len(foreign) == 1 else 'do'} not belong to it. "
            "Find out where that came from, and remove it."
        )
    bad = []
    for name in sorted(expected)[group.rank :: group.size]:
        file = checkpoint.path / name
        if not file.is_file() or _describe(file) != expected[name]:
            bad.append(name)
    bad = sorted(name for part in group.gather(bad) for name in part)
    if bad:
        raise MftcoderError(
            f"{checkpoint.path}: {', '.join(bad)} missing or changed since it was written. "
            "Delete this folder to resume from the checkpoint before it."
        )


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by ``content`` as JSON, so that a reader sees the old file or the whole new one.

    It is on the disk when this returns, name and content.
    """
    aside = path.with_name(path.name + ".partial")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    _sync_folder(path.parent)


def clear_incomplete(output_dir: Path) -> None:
    """Delete what saves that were interrupted left behind."""
    for path in (output_dir / "checkpoints").glob("*"):
        if path.is_dir() and not (path / STATE).is_file():
            shutil.rmtree(path, ignore_errors=True)


def _my_files(path: Path, group: Group) -> list[str]:
    """This rank's share of the files below ``path``, of which it describes only what it sees. Collective.

    On a network file system a host may not see for a while what others have written, but it sees its own.
    """
    views = group.gather([str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()])
    seen_by: dict[str, list[int]] = {}
    for rank, names in enumerate(views):
        for name in names:
            seen_by.setdefault(name, []).append(rank)
    names = sorted(seen_by)
    return [name for n, name in enumerate(names) if seen_by[name][n % len(seen_by[name])] == group.rank]


def _describe(file: Path, *, sync: bool = False) -> dict[str, Any]:
    """Size and digest; with ``sync`` the file is on the disk when this returns."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if sync:
            os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "blake2b": digest}


def _sync_folders(path: Path) -> None:
    """Have the names below ``path``, and its own, on the disk before it is called complete."""
    for folder in (*(inner for inner in path.rglob("*") if inner.is_dir()), path, path.parent):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # some file systems have no such thing
            raise
    finally:
        os.close(handle)


def _clear_old(output_dir: Path, best_step: int | None, keep: int | None) -> None:
    """Delete complete checkpoints beyond the ``keep`` newest, except the best."""
    for checkpoint in complete_checkpoints(output_dir)[: -keep if keep else 0]:
        if checkpoint.step != best_step:
            # Without its JSON the folder no longer counts, should deleting be interrupted.
            (checkpoint.path / STATE).unlink()
            shutil.rmtree(checkpoint.path, ignore_errors=True)
