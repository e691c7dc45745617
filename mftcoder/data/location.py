"""Paths that may lie elsewhere: on this machine, or behind any file system that fsspec knows ("s3://bucket/code")."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mftcoder.errors import MftcoderError


def located(path: str | Path) -> Path:
    """The path that ``path`` names: a ``pathlib.Path``, or for a URL what has its methods and opens remote files.

    Raises MftcoderError, naming what to install, if fsspec cannot open such URLs.
    """
    if "://" not in str(path):
        return Path(path)
    try:
        place: Any = UPath(path)
        local = place.fs.protocol == ("file", "local")
    except (ImportError, ValueError) as error:
        raise MftcoderError(f"{path}: cannot be opened: {error}.") from error
    return Path(place.path) if local else place


def is_remote(path: Path) -> bool:
    """Whether ``path`` is one that ``located`` gave for a URL."""
    return not isinstance(path, Path)


@contextmanager
def failures(path: str | Path, what: str, *local: type[Exception]) -> Iterator[None]:
    """Turns OSError, the errors ``local``, and any error at all of a remote ``path`` into one that says ``what``."""
    any_or_os: type[Exception] = (
        Exception if "://" in str(path) else OSError
    )  # the package of each file system has errors of its own
    try:
        yield
    except MftcoderError:
        raise
    except (any_or_os, *local) as error:
        raise MftcoderError(f"{what}: {error or type(error).__name__}. Restore it, or correct its path.") from error
