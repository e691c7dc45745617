"""The functions of Python source files, found by parsing. Nothing that is read here is ever imported or run."""

import ast
import io
import os
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mftcoder.errors import MftcoderError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

LARGEST_FILE = 1_000_000  # bytes; larger ones are data written as code
SHORTEST_FILE = 100  # characters
FEWEST_LINES = 4  # of a function: its signature and code, without docstring and blank lines

_OTHER_PEOPLES = {"site-packages", "dist-packages", "node_modules", "__pycache__"}
_TEST = re.compile(r"(.+_)?tests?|conftest\.py|test_.*\.py|.*_tests?\.py")
_GENERATED = re.compile(r"auto-?generated|@generated|\bgenerated (by|from|and)\b|\bdo not edit\b", re.IGNORECASE)
_HEAD_LINES = 10  # where a file says that it is generated


class LeftOut(Exception):  # noqa: N818 - an outcome that is counted, not an error
    """This file or function gives no record; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Function:
    """One function as it would stand at the left margin of a file of its own.

    ``node`` is the tree of ``code`` (its positions count from the first line of ``code``); ``path`` (relative to its
    root, with slashes) and ``line`` (from 1, decorators included) say where it came from.
    """

    root: str
    path: str
    line: int
    code: str
    node: FunctionNode

    @property
    def lines(self) -> list[str]:
        return self.code.split("\n")

    @property
    def docstring(self) -> ast.stmt | None:
        """The statement that is the docstring, if it says anything."""
        return self.node.body[0] if (ast.get_docstring(self.node) or "").strip() else None

    @property
    def body(self) -> list[ast.stmt]:
        """The statements after the docstring."""
        return self.node.body[1:] if self.docstring else self.node.body


def source_files(root: Path) -> list[str]:
    """Paths of all ``*.py`` under ``root``, relative to it, sorted; not those of installed packages or hidden folders.

    Raises MftcoderError where there is no such folder, no Python file in it, or a folder that cannot be listed.
    """
    if not root.is_dir():
        raise MftcoderError(f"{root}: no such folder. Name a folder of Python files.")
    found: list[str] = []
    try:
        for folder, folders, files in os.walk(root, onerror=_refuse):
            folders[:] = [name for name in folders if name not in _OTHER_PEOPLES and not name.startswith(".")]
            found += [Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py")]
    except OSError as error:
        raise MftcoderError(f"{error.filename}: cannot be listed ({error.strerror}). Name other folders.") from error
    if not found:
        raise MftcoderError(f"{root}: found no Python file (*.py). Name a folder that holds some.")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def read_source(root: Path, path: str) -> str:
    """The text of a source file, lines ended by ``\\n``; raises LeftOut for one that should not be learnt from."""
    if any(_TEST.fullmatch(part) for part in path.split("/")):
        raise LeftOut("test")
    try:
        raw = (root / path).read_bytes()
    except OSError:
        raise LeftOut("unreadable") from None
    if len(raw) > LARGEST_FILE:
        raise LeftOut("too long")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (SyntaxError, ValueError, LookupError):
        raise LeftOut("undecodable") from None
    if len(text.strip()) < SHORTEST_FILE:
        raise LeftOut("too short")
    if _GENERATED.search("\n".join(text.split("\n")[:_HEAD_LINES])):
        raise LeftOut("generated")
    return text


def parse(code: str) -> ast.Module | None:
    """The tree of ``code``, or None where this version of Python cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like are the business of the code's authors
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def function_nodes(tree: ast.Module) -> Iterator[tuple[FunctionNode, bool]]:
    """Every function in source order, and whether it stands inside another one."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, nested = pending.pop()
        if isinstance(node, FunctionNode):
            yield node, nested
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.excepthandler | ast.match_case)]
        pending += [(child, nested or isinstance(node, FunctionNode)) for child in reversed(inner)]


def function_at(node: FunctionNode, lines: list[str], root: str, path: str) -> Function:
    """The function ``node`` of a file's ``lines``, moved to the left margin.

    Raises LeftOut where that would change the value of a string over several lines, or where little code is left.
    """
    first = first_line(node)
    margin = lines[first - 1][: node.col_offset]
    code = "\n".join(line.removeprefix(margin) for line in lines[first - 1 : node.end_lineno])
    tree = parse(code)
    if tree is None or len(tree.body) != 1 or _strings(tree.body[0]) != _strings(node):
        raise LeftOut("not to be dedented")
    moved = tree.body[0]
    assert isinstance(moved, FunctionNode)
    function = Function(root, path, first, code, moved)
    if sum(bool(line.strip()) for line in without_docstring(function)) < FEWEST_LINES:
        raise LeftOut("too short")
    return function


def first_line(node: ast.stmt) -> int:
    """The line on which a statement begins, its decorators included."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def without_docstring(function: Function) -> list[str]:
    """The function's lines without those of its docstring."""
    doc = function.docstring
    return function.lines if doc is None else function.lines[: doc.lineno - 1] + function.lines[doc.end_lineno :]


def _strings(node: ast.AST) -> list[object]:
    """Every string constant in ``node``; docstrings as they are read: without their indentation."""
    documented = [n for n in ast.walk(node) if isinstance(n, FunctionNode | ast.ClassDef)]
    docs = [ast.get_docstring(n) for n in documented]
    raw = {
        id(n.body[0].value) for n, doc in zip(documented, docs, strict=True) if doc and isinstance(n.body[0], ast.Expr)
    }
    rest = [
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in raw
    ]
    return [docs, rest]
