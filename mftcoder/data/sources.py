"""The files that a task is made from."""

from glob import glob, has_magic
from pathlib import Path

from mftcoder.config.schema import Task
from mftcoder.data.reading import SUFFIXES
from mftcoder.errors import MftcoderError


def source_files(task: Task) -> list[Path]:
    """The files of a task: entries of ``path`` in their order, folders (recursively) and globs sorted.

    Raises MftcoderError if an entry names nothing, or a file of an unknown kind, or a file twice.
    """
    files: list[Path] = []
    for entry in [task.path] if isinstance(task.path, str) else task.path:
        for file in _expand(entry, f'data.tasks "{task.name}"'):
            if file in files:
                raise MftcoderError(f'data.tasks "{task.name}": {file} is named twice. List it once.')
            files.append(file)
    return files


def _expand(entry: str, where: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    elif path.is_file():
        found = [path]
    elif has_magic(entry):
        found = sorted(file for file in map(Path, glob(entry, recursive=True)) if file.is_file())
    else:
        raise MftcoderError(f"{where}: path {entry} does not exist. Correct the path.")
    if not found:
        raise MftcoderError(f"{where}: path {entry} holds no file. Record files end with {', '.join(SUFFIXES)}.")
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise MftcoderError(f"{where}: {file} is of no known kind. Record files end with {', '.join(SUFFIXES)}.")
    return found
