"""Paths that may lie elsewhere: on this machine, or behind any file system that fsspec knows ("s3://bucket/code")."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mftcoder.errors import MftcoderError

# As in https://name:password@host, https://token@host and …?X-Amz-Signature=…
_PASSWORD = re.compile(r"://[^/]*:[^/]*@|https?://[^/]*@")
_SIGNED = re.compile(r"[?&][^=&/]*(?:sig|token|key|secret|passw|credential|auth)[^=&/]*=", re.IGNORECASE)


def located(path: str | Path) -> Path:
    """The path that ``path`` names: a ``pathlib.Path``, or for a URL what has its methods and opens remote files.

    Raises MftcoderError, naming what to install, if fsspec cannot open such URLs; and without repeating it for one that
    holds a password or a token, as names of files reach manifests, messages and logs.
    """
    if "://" not in str(path):
        return Path(path)
    if _PASSWORD.search(str(path)) or _SIGNED.search(str(path)):
        raise MftcoderError(
            f"a URL with {str(path).partition('://')[0]}:// holds a password, token or signature, which would stand in "
            "manifests and logs. Leave it out of the URL, and give it in an environment variable or a config file of "
            "fsspec, or of the package that opens such URLs."
        )
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
