"""The source files under a folder, one after another in a fixed order, without those that are not its authors' own."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mftcoder.errors import MftcoderError

_VENDORED = re.compile(
    r"site-packages|dist-packages|node_modules|bower_components|__pycache__|vendor|vendored|_vendor|third[-_]?party"
    r"|3rdparty|external|externals|Pods|venv|virtualenv|Godeps"
)
_BUILT = re.compile(r"dist|_build|bazel-.*|cmake-build-.*")
# Its configuration may name programs to run; none of ours does.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*")


Ignored = Callable[[list[str]], set[str]]  # paths -> those of them that git ignores


@dataclass(frozen=True)
class Checkout:
    """The git checkout that a folder is in."""

    top: Path
    commit: str | None


def checkout_of(root: Path) -> Checkout | None:
    """The checkout that ``root`` is in, if git is installed and does not ignore the folder as a whole."""
    if shutil.which("git") is None:
        return None
    top = _git(root, "rev-parse", "--show-toplevel")
    if top and Path(top) != root.resolve() and _git(root, "check-ignore", "--", str(root.resolve())):
        return None
    return Checkout(Path(top), _git(root, "rev-parse", "--verify", "--quiet", "HEAD") or None) if top else None


def source_files(
    root: Path, wanted: Callable[[str], bool], left_out: Counter[str], checkout: Checkout | None
) -> Iterator[str]:
    """Paths of the wanted files under ``root``, relative to it with slashes, in the order of the sorted list of them.

    Hidden, vendored and built folders are not looked into, nor what git ignores: ``left_out`` counts them. Only one
    folder's names are held at a time. Raises MftcoderError where there is no such folder or one that cannot be listed.
    """
    if not root.is_dir():
        raise MftcoderError(f"{root}: no such folder. Name a folder of source files.")
    with _ignored(root if checkout else None) as ignored:
        yield from _walk(root, "", wanted, left_out, ignored)


def _walk(
    root: Path, folder: str, wanted: Callable[[str], bool], left_out: Counter[str], ignored: Ignored
) -> Iterator[str]:
    names = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name == ".git" and folder:  # a checkout in the checkout, of which the outer git knows nothing
                    own = root / folder
                    for path in source_files(own, wanted, left_out, checkout_of(own)):
                        yield folder + path
                    return
                if entry.is_dir(follow_symlinks=False):
                    if (reason := _not_own(entry.name)) is None:
                        names.append(f"{folder}{entry.name}/")
                    else:
                        left_out[reason] += 1
                elif entry.is_file() and wanted(entry.name):
                    names.append(f"{folder}{entry.name}")
    except OSError as error:
        raise MftcoderError(f"{error.filename}: cannot be listed ({error.strerror}). Name other folders.") from error
    gone = ignored(names) if names else set()
    for name in sorted(names):
        if name in gone:
            left_out["folder ignored by git" if name.endswith("/") else "file ignored by git"] += 1
        elif name.endswith("/"):
            yield from _walk(root, name, wanted, left_out, ignored)
        else:
            yield name


def _not_own(name: str) -> str | None:
    if name.startswith("."):
        return "hidden folder"
    if _VENDORED.fullmatch(name):
        return "vendored folder"
    return "built folder" if _BUILT.fullmatch(name) else None


@contextmanager
def _ignored(root: Path | None) -> Iterator[Ignored]:
    """A function that says which of some paths git ignores; outside of a checkout none."""
    if root is None:
        yield lambda names: set()
        return
    command = [*_GIT, "-C", str(root), "check-ignore", "--stdin", "-z", "--verbose", "--non-matching"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as git:
        assert git.stdin is not None
        assert git.stdout is not None
        out = git.stdout

        def field() -> bytes:
            read = bytearray()
            while (byte := out.read(1)) not in (b"\0", b""):
                read += byte
            return bytes(read)

        def ask(names: list[str]) -> set[str]:
            assert git.stdin is not None
            gone = set()
            for name in names:  # one by one: both pipes are short
                git.stdin.write(os.fsencode(name) + b"\0")
                git.stdin.flush()
                pattern_source, _, pattern, _ = field(), field(), field(), field()
                if pattern_source and not pattern.startswith(b"!"):
                    gone.add(name)
            return gone

        yield ask
        git.stdin.close()


def _git(root: Path, *arguments: str) -> str:
    ran = subprocess.run([*_GIT, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""
