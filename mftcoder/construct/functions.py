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
from typing import NamedTuple

from mftcoder.errors import MftcoderError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Span = tuple[int, int]  # first and last line

LARGEST_FILE = 1_000_000  # bytes; larger ones are data written as code
SHORTEST_FILE = 100  # characters
FEWEST_LINES = 4  # of a function: its signature and code, without docstring and blank lines

_OTHER_PEOPLES = {"site-packages", "dist-packages", "node_modules", "__pycache__"}
_TEST = re.compile(r"(.+_)?tests?|conftest\.py|test_.*\.py|.*_tests?\.py")
_GENERATED = re.compile(r"auto-?generated|@generated|\bgenerated (by|from|and)\b|\bdo not edit\b", re.IGNORECASE)
_GENERATED_NAME = re.compile(
    r"_pb2(_grpc)?\.pyi?$|\.pb(\.\w+)?\.(go|cc|h|js|ts|rs)$|[._-](min|bundle)\.m?js$|\.d\.[cm]?ts$|[._](g|gen|generated)\.\w+$"
)
LONGEST_LINE = 5000  # characters; a minifier's, or data
LONGEST_MEAN_LINE = 120  # characters of a file's lines
_HEAD_LINES = 10  # where a file says that it is generated


class LeftOut(Exception):  # noqa: N818 - an outcome that is counted, not an error
    """This file or function gives no record; the message is the reason under which it is counted."""


class Doc(NamedTuple):
    """What documents a function: a docstring, or a comment before it."""

    first: int  # line of the function's code, from 1
    last: int
    text: str  # without quotes, marks of comments and indentation
    alone: bool  # on lines of its own


@dataclass(frozen=True)
class Function:
    """One function as it would stand at the left margin of a file of its own, in any language.

    ``path`` (relative to its root, with slashes) and ``line`` (from 1; decorators, attributes and documentation
    included) say where it came from. All other lines and spans count from the first line of ``code``, from 1.
    """

    root: str
    path: str
    line: int
    code: str
    language: str

    @property
    def lines(self) -> list[str]:
        return self.code.split("\n")

    @property
    def name(self) -> str:
        """As it is called, without class or namespace."""
        raise NotImplementedError

    @property
    def doc(self) -> Doc | None:
        raise NotImplementedError

    @property
    def body_line(self) -> int:
        """The first line after signature and docstring that is not blank; raises LeftOut where they share it."""
        raise NotImplementedError

    @property
    def statements(self) -> list[Span]:
        """First and last line of every statement of the body, also inside others."""
        raise NotImplementedError

    @property
    def blocks(self) -> list[Span]:
        """First and last line of what stands inside loops, conditions and the like."""
        raise NotImplementedError

    def without_doc(self) -> list[str]:
        """The function's lines without those of what documents it."""
        doc = self.doc
        return self.lines if doc is None else self.lines[: doc.first - 1] + self.lines[doc.last :]


@dataclass(frozen=True)
class PythonFunction(Function):
    """``node`` is the tree of ``code`` (its positions count from the first line of ``code``)."""

    node: FunctionNode

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def docstring(self) -> ast.stmt | None:
        """The statement that is the docstring, if it says anything."""
        return self.node.body[0] if (ast.get_docstring(self.node) or "").strip() else None

    @property
    def body(self) -> list[ast.stmt]:
        """The statements after the docstring."""
        return self.node.body[1:] if self.docstring else self.node.body

    @property
    def doc(self) -> Doc | None:
        node = self.docstring
        if node is None:
            return None
        last = node.end_lineno or 0
        before = self.lines[node.lineno - 1].encode()[: node.col_offset]
        after = self.lines[last - 1].encode()[node.end_col_offset :].strip()
        alone = not before.strip() and (not after or after.startswith(b"#"))
        return Doc(node.lineno, last, ast.get_docstring(self.node) or "", alone)

    @property
    def body_line(self) -> int:
        if self.docstring is None:
            first = self.body[0]
            if self.lines[first.lineno - 1].encode()[: first.col_offset].strip():
                raise LeftOut("body shares a line")
            return first_line(first)
        line = (self.docstring.end_lineno or 0) + 1
        while line <= len(self.lines) and not self.lines[line - 1].strip():
            line += 1
        return line

    @property
    def statements(self) -> list[Span]:
        nodes = [node for part in self.body for node in ast.walk(part) if isinstance(node, ast.stmt)]
        return sorted({(first_line(node), node.end_lineno or 0) for node in nodes})

    @property
    def blocks(self) -> list[Span]:
        found = set()
        for node in (node for part in self.body for node in ast.walk(part)):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list) and block and isinstance(first := block[0], ast.stmt):
                    begins_line = not self.lines[first.lineno - 1].encode()[: first.col_offset].strip()
                    is_elif = name == "orelse" and isinstance(node, ast.If) and first.col_offset == node.col_offset
                    if begins_line and not is_elif:
                        found.add((first_line(first), block[-1].end_lineno or 0))
        return sorted(found)


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


def read_source(root: Path, path: str, *, tests: bool = False) -> str:
    """The text of a source file, lines ended by ``\\n``; raises LeftOut for one that should not be learnt from.

    ``tests``: files that hold tests are read too. Files that are not Python's must be UTF-8.
    """
    if not tests and any(_TEST.fullmatch(part) for part in path.split("/")):
        raise LeftOut("test")
    if _GENERATED_NAME.search(path):
        raise LeftOut("generated")
    try:
        with (root / path).open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError:
        raise LeftOut("unreadable") from None
    if len(raw) > LARGEST_FILE:
        raise LeftOut("too long")
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(raw).readline)[0] if path.endswith(".py") else "utf-8-sig"
        text = raw.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (SyntaxError, ValueError, LookupError):
        raise LeftOut("undecodable") from None
    if len(text.strip()) < SHORTEST_FILE:
        raise LeftOut("too short")
    lines = text.split("\n")
    if _GENERATED.search("\n".join(lines[:_HEAD_LINES])):
        raise LeftOut("generated")
    if len(text) > LONGEST_MEAN_LINE * len(lines) or max(map(len, lines)) > LONGEST_LINE:
        raise LeftOut("minified")
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


def function_at(node: FunctionNode, lines: list[str], root: str, path: str) -> PythonFunction:
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
    function = PythonFunction(root, path, first, code, "python", moved)
    if sum(bool(line.strip()) for line in function.without_doc()) < FEWEST_LINES:
        raise LeftOut("too short")
    return function


def first_line(node: ast.stmt) -> int:
    """The line on which a statement begins, its decorators included."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


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
