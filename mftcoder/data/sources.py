"""The files that a task is made from."""

import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path

from mftcoder.config.schema import Task
from mftcoder.data.hub import SAVED, dataset_files
from mftcoder.data.location import failures, is_remote, located
from mftcoder.data.reading import SUFFIXES
from mftcoder.errors import MftcoderError


def source_files(task: Task) -> list[Path]:
    """The files of a task, as ``named_files`` finds them, or those of its dataset."""
    where = f'data.tasks "{task.name}"'
    return dataset_files(task.dataset, where) if task.dataset else named_files(task.path or [], where)


def named_files(path: str | list[str], where: str) -> list[Path]:
    """The files that ``path`` names: its entries in their order, folders (recursively) and globs sorted.

    Links are followed; a file that several of them lead to is there once. Raises MftcoderError, beginning with
    ``where``, if an entry names nothing, or a file of an unknown kind, or one that another entry names too.
    """
    files: dict[Path, Path] = {}  # where a file really lies -> its name
    for entry in [path] if isinstance(path, str) else path:
        with failures(entry, f"{where}: path {entry}: cannot be searched"):
            found = _expand(entry, where)
        for real, file in found.items():
            if real in files:
                also = "" if file == files[real] else f" (also as {files[real]})"
                raise MftcoderError(f"{where}: {file} is named twice{also}. List it once.")
        files |= found
    return list(files.values())


def held_out_files(task: Task) -> list[Path]:
    """The files whose records are held out of a task; none where a part of its own records is.

    Raises MftcoderError if one of them is to be trained on too.
    """
    if not task.held_out_source:
        return []
    files = source_files(task.held_out_source)
    trained = {_real(file) for file in source_files(task)}
    if both := next((file for file in files if _real(file) in trained), None):
        raise MftcoderError(
            f'data.tasks "{task.name}": {both} is both for training and for validation. Name it for one of them, or '
            "leave validation out: a part of the records is held out then."
        )
    return files


def _expand(entry: str, where: str) -> dict[Path, Path]:
    path = located(entry)
    if any((path / mark).is_file() for mark in SAVED):
        raise MftcoderError(
            f'{where}: {entry} was made by save_to_disk. Give "dataset": {{"path": "{entry}"}} instead.'
        )
    if path.is_dir():
        found = sorted(file for file in _below(path) if file.name.endswith(SUFFIXES))
    elif path.exists():
        found = [path]
    elif has_magic(entry):
        found = sorted(file for file in _matches(entry if is_remote(path) else str(path)) if not file.is_dir())
    else:
        raise MftcoderError(f"{where}: path {entry} does not exist. Correct the path.")
    if not found:
        raise MftcoderError(f"{where}: path {entry} holds no file. Record files end with {', '.join(SUFFIXES)}.")
    for file in found:
        if not file.is_file():
            kind = "is no regular file" if file.exists() else "is a link to nothing"
            raise MftcoderError(f"{where}: {file} {kind}. Remove it, or name files beside it.")
        if not file.name.endswith(SUFFIXES):
            raise MftcoderError(f"{where}: {file} is of no known kind. Record files end with {', '.join(SUFFIXES)}.")
    files: dict[Path, Path] = {}
    for file in found:
        files.setdefault(_real(file), file)
    return files


def _real(file: Path) -> Path:
    """Where ``file`` lies, whatever links lead to it."""
    return file if is_remote(file) else file.resolve()


def _below(folder: Path) -> Iterator[Path]:
    """All that is in ``folder`` and in those below it, each of which is entered once."""
    if is_remote(folder):
        yield from (file for file in folder.rglob("*") if not file.is_dir())
        return

    def fail(error: OSError) -> None:
        raise error

    entered = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(parent, name) for name in names)
        inner = {os.path.realpath(f"{parent}/{name}"): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(name for real, name in inner.items() if real not in entered)
        entered.update(inner)


def _matches(pattern: str) -> Iterator[Path]:
    if "://" not in pattern:
        yield from map(Path, glob(pattern, recursive=True))
        return
    outer, chained, inner = pattern.partition("::")  # as in zip://*.jsonl::s3://bucket/code.zip
    segments = outer.split("/")
    first = next(index for index, segment in enumerate(segments) if has_magic(segment))
    yield from located("/".join(segments[:first]) + "/" + chained + inner).glob("/".join(segments[first:]))
