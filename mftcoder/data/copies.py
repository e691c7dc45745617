"""Copies of remote shards on this host, to be mapped into memory.

::

    CACHE/shards/9f2c…/        a complete copy, called by a hash of the manifest; never changed, removed by the user
    CACHE/shards/9f2c….lock    while a process copies; the others on this host wait
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from mftcoder.data.inputs import FileEntry
from mftcoder.data.location import failures
from mftcoder.data.manifest import MANIFEST, Manifest
from mftcoder.errors import MftcoderError
from mftcoder.locks import locked

_BLOCK = 2**23  # bytes


def cache_folder() -> Path:
    """Where copies lie: $MFTCODER_CACHE, or else ``mftcoder`` in the user's cache."""
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("MFTCODER_CACHE") or f"{users}/mftcoder").expanduser()


def local_copy(remote: Path) -> Path:
    """The folder of this host that holds the same shards as ``remote``, copied and checked if it is not there.

    Raises MftcoderError if they are not complete, or not as they were written, or cannot be read.
    """
    with failures(remote, f"{remote}: cannot be read"):
        manifest = Manifest.read(remote)
        content = (remote / MANIFEST).read_bytes()
    folder = cache_folder() / "shards" / hashlib.blake2b(content, digest_size=16).hexdigest()
    with locked(folder.with_name(f"{folder.name}.lock"), f"it copies {remote}", _tell):
        if not folder.exists():
            aside = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            size = sum(entry.size for entry in manifest.files)
            _tell(f"{remote}: copying {size / 1e6:,.1f} MB to {folder}")
            for entry in manifest.files:
                _copy(remote, entry, aside)
            (aside / MANIFEST).write_bytes(content)
            aside.rename(folder)
    return folder


def _copy(remote: Path, entry: FileEntry, to: Path) -> None:
    source, target = remote / entry.path, to / entry.path
    if not target.resolve().is_relative_to(to.resolve()):
        raise MftcoderError(f"{remote}/{MANIFEST}: the file {entry.path} lies outside the shards. Do not use them.")
    target.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.blake2b(digest_size=16)
    with failures(remote, f"{source}: cannot be copied"), source.open("rb") as stream, target.open("wb") as copy:
        while block := stream.read(_BLOCK):
            found.update(block)
            copy.write(block)
    if (target.stat().st_size, found.hexdigest()) != (entry.size, entry.blake2b):
        raise MftcoderError(
            f"{source}: is damaged: {target.stat().st_size} bytes with checksum {found.hexdigest()} arrived; "
            f"{entry.size} with {entry.blake2b} were written. Upload the shards again."
        )


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
