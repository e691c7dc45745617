"""The defects that fit a Python function. An edit is a span of its UTF-8 bytes, in which ast counts columns."""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

from mftcoder.construct.functions import FunctionNode, PythonFunction, parse

Edit = tuple[int, int, bytes]

_COMPARISONS: dict[type[ast.cmpop], tuple[bytes, bytes]] = {
    ast.Lt: (rb"<", b"<="),
    ast.LtE: (rb"<=", b"<"),
    ast.Gt: (rb">", b">="),
    ast.GtE: (rb">=", b">"),
    ast.Eq: (rb"==", b"!="),
    ast.NotEq: (rb"!=", b"=="),
    ast.Is: (rb"\bis\b", b"is not"),
    ast.IsNot: (rb"\bis\s+not\b", b"is"),
    ast.In: (rb"\bin\b", b"not in"),
    ast.NotIn: (rb"\bnot\s+in\b", b"in"),
}
_SYMMETRIC = {"max", "min"}  # calls that do not mind the order of their arguments
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp)


class _Text:
    """A function's bytes, and which local names are bound from which line on."""

    def __init__(self, function: PythonFunction) -> None:
        self.raw = function.code.encode()
        self.starts = [0, *accumulate(len(line) + 1 for line in self.raw.split(b"\n"))]
        self.bound = _bound(function.node)

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> bytes:
        return self.raw[self.start(node) : self.end(node)]

    def between(self, left: ast.expr, right: ast.expr, pattern: bytes, new: bytes) -> Iterator[Edit]:
        """Replaces the operator between two operands."""
        offset = self.end(left)
        found = list(re.finditer(pattern, self.raw[offset : self.start(right)]))
        if len(found) == 1:
            yield offset + found[0].start(), offset + found[0].end(), new


def _comparison(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            yield from text.between(left, right, *_COMPARISONS[type(operator)])


def _and_or(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        pattern, new = (rb"\band\b", b"or") if isinstance(node.op, ast.And) else (rb"\bor\b", b"and")
        for left, right in pairwise(node.values):
            yield from text.between(left, right, pattern, new)


def _plus_minus(node: ast.AST, text: _Text) -> Iterator[Edit]:
    match node:
        case (
            ast.BinOp(left=ast.Constant(value=str()) | ast.JoinedStr())
            | ast.BinOp(right=ast.Constant(value=str()) | ast.JoinedStr())
        ):
            return  # a concatenation
        case ast.BinOp(op=ast.Add()):
            yield from text.between(node.left, node.right, rb"\+", b"-")
        case ast.BinOp(op=ast.Sub()):
            yield from text.between(node.left, node.right, rb"-", b"+")


def _off_by_one(node: ast.AST, text: _Text) -> Iterator[Edit]:
    """Only numbers that count something: a wrong timeout or a wrong year could not be known from the function."""
    match node:
        case ast.Subscript() | ast.Slice() | ast.Compare() | ast.BinOp():
            numbers = ast.iter_child_nodes(node)
        case ast.Call(func=ast.Name(id="range")):
            numbers = iter(node.args)
        case _:
            return
    for number in numbers:
        if isinstance(number, ast.Constant) and text.of(number).isdigit():
            value = int(text.of(number))
            for wrong in (value + 1, value - 1):
                if wrong >= 0:
                    yield text.start(number), text.end(number), str(wrong).encode()


def _wrong_variable(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in text.bound:
        for name, line in text.bound.items():
            if name != node.id and line < node.lineno:
                yield text.start(node), text.end(node), name.encode()


def _missing_not(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _removed(text, node, rb"not\s*")


def _missing_return(node: ast.AST, text: _Text) -> Iterator[Edit]:
    match node:
        case ast.Return(value=None | ast.Constant(value=None)):
            return
        case ast.Return():
            yield _removed(text, node, rb"return\s*")


def _removed(text: _Text, node: ast.expr | ast.stmt, pattern: bytes) -> Edit:
    keyword = re.match(pattern, text.of(node))
    assert keyword is not None
    return text.start(node), text.start(node) + keyword.end(), b""


def _swapped_arguments(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in _SYMMETRIC):
        return
    for left, right in pairwise(node.args):
        if not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred):
            middle = text.raw[text.end(left) : text.start(right)]
            yield text.start(left), text.end(right), text.of(right) + middle + text.of(left)


def _break_continue(node: ast.AST, text: _Text) -> Iterator[Edit]:
    if isinstance(node, ast.Break | ast.Continue):
        yield text.start(node), text.end(node), b"continue" if isinstance(node, ast.Break) else b"break"


DEFECTS: dict[str, Callable[[ast.AST, _Text], Iterator[Edit]]] = {
    "comparison": _comparison,
    "and/or": _and_or,
    "plus/minus": _plus_minus,
    "off by one": _off_by_one,
    "wrong variable": _wrong_variable,
    "missing not": _missing_not,
    "missing return": _missing_return,
    "swapped arguments": _swapped_arguments,
    "break/continue": _break_continue,
}


def edits(function: PythonFunction) -> dict[str, list[Edit]]:
    """All edits that would put a defect into the function, by kind."""
    text = _Text(function)
    nodes = list(_code(function.body))
    return {kind: [edit for node in nodes for edit in find(node, text)] for kind, find in DEFECTS.items()}


def edited(function: PythonFunction, edit: Edit) -> tuple[int, str] | None:
    """The line of the edit, and the function with it.

    None where precedence, parentheses or comments undo it, or it is a syntax error.
    """
    start, end, new = edit
    raw = function.code.encode()
    code = (raw[:start] + new + raw[end:]).decode()
    tree = parse(code)
    if tree is None or len(tree.body) != 1 or ast.dump(tree.body[0]) == ast.dump(function.node):
        return None
    return raw.count(b"\n", 0, start) + 1, code


def _code(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes but those inside f-strings, whose positions Python 3.11 does not give."""
    pending: list[ast.AST] = list(reversed(body))
    while pending:
        node = pending.pop()
        if not isinstance(node, ast.JoinedStr):
            yield node
            pending += reversed(list(ast.iter_child_nodes(node)))


def _bound(node: FunctionNode) -> dict[str, int]:
    """The function's own names and the line of their first binding; not ``self`` and ``cls``."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bound = {a.arg: a.lineno for a in named if a is not None and a.arg not in {"self", "cls"}}
    pending: list[ast.AST] = list(reversed(node.body))
    while pending:
        child = pending.pop()
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            bound.setdefault(child.id, child.lineno)
        if not isinstance(child, (*_SCOPES, ast.GeneratorExp)):
            pending += reversed(list(ast.iter_child_nodes(child)))
    return bound
