"""The functions of source files other than Python's, found with tree-sitter. Nothing that is read here is ever run."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mftcoder.construct.functions import FEWEST_LINES, Doc, Function, LeftOut, Span
from mftcoder.construct.languages import LANGUAGES, Language, parser

Node = Any  # tree_sitter.Node
_CALLBACKS = {"arrow_function", "function_expression"}  # functions of their own where a constant is declared as one


class Source:
    """A parsed source file; rows count from 0."""

    def __init__(self, text: str, key: str) -> None:
        self.key = key
        self.language: Language = LANGUAGES[key]
        self.raw = text.encode()
        self.root = parser(key).parse(self.raw).root_node

    def code(self, raw: bytes, rows: Span, margin: str) -> str:
        """The lines of ``raw`` on ``rows`` without ``margin`` before them."""
        lines = raw.decode().split("\n")[rows[0] : rows[1] + 1]
        return "\n".join(line.removeprefix(margin) for line in lines)

    def shares_line(self, node: Node) -> bool:
        """Whether other code stands before or after the node on its lines."""
        before = self.raw[self.raw.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte]
        end = self.raw.find(b"\n", node.end_byte)
        after = self.raw[node.end_byte : end if end >= 0 else len(self.raw)].strip()
        return bool(before.strip()) or bool(after and not after.startswith((b";", b"//", b"/*")))


@dataclass(frozen=True)
class TreeFunction(Function):
    """A function with the node that has its parameters and body.

    Its code is what stands in ``source`` on ``rows``, without ``margin``; on ``doc_rows`` stands what documents it.
    """

    source: Source
    node: Node
    rows: Span
    margin: str
    doc_rows: Span | None

    @property
    def name(self) -> str:
        node = self.node if self.node.type not in _CALLBACKS else self.node.parent
        named = node.child_by_field_name("name")
        while named is None and (node := node.child_by_field_name("declarator")) is not None:  # C's
            if node.child_by_field_name("declarator") is None:
                named = node.child_by_field_name("name") or node
        return "" if named is None else re.split(r"\W+", named.text.decode())[-1]

    @property
    def body(self) -> Node:
        return self.node.child_by_field_name("body")

    @cached_property
    def doc(self) -> Doc | None:
        if self.doc_rows is None:
            return None
        first, last = (row - self.rows[0] + 1 for row in self.doc_rows)
        return Doc(first, last, _comment_text(self.lines[first - 1 : last]), alone=True)

    @cached_property
    def body_line(self) -> int:
        inner = self._inner(self.body)
        if inner is None:
            raise LeftOut("body shares a line")
        return inner[0]

    @cached_property
    def statements(self) -> list[Span]:
        blocks = self.source.language.blocks
        found = [
            self._lines(node)
            for node in nodes_of(self.body)
            if node.is_named and node.parent.type in blocks and node.type not in blocks
            if "comment" not in node.type and not self.source.shares_line(node)
        ]
        return sorted(set(found))

    @cached_property
    def blocks(self) -> list[Span]:
        body = self.body
        found = [
            self._inner(node)
            for node in nodes_of(body)
            if node.type in self.source.language.blocks and node != body and node.child(0) and node.child(0).type == "{"
        ]
        return sorted({span for span in found if span})

    def _lines(self, node: Node) -> Span:
        return node.start_point[0] - self.rows[0] + 1, node.end_point[0] - self.rows[0] + 1

    def _inner(self, block: Node) -> Span | None:
        """The lines between a block's braces; None if there are none, or code shares the lines of the braces."""
        first, last = self._lines(block)
        opens, closes = self.lines[first - 1], self.lines[last - 1]
        if not opens.rstrip().endswith("{") or not closes.lstrip().startswith("}"):
            return None
        inner = range(first + 1, last)
        written = [line for line in inner if self.lines[line - 1].strip()]
        return (written[0], written[-1]) if written else None


def functions(source: Source, root: str, path: str) -> Iterator[Callable[[], TreeFunction]]:
    """Of every function, in source order, what makes it or raises LeftOut."""
    language = source.language
    pending = [(source.root, False)]
    while pending:
        node, nested = pending.pop()
        is_function = node.type in language.functions
        if is_function and _is_declared(node):

            def make(node: Node = node, nested: bool = nested) -> TreeFunction:
                if nested:
                    raise LeftOut("inside another function")
                outer = outermost(node, source)
                if is_test(outer, source):
                    raise LeftOut("test")
                return function_at(node, outer, source, root, path)

            yield make
        pending += [(child, nested or is_function) for child in reversed(node.named_children)]


def outermost(node: Node, source: Source) -> Node:
    """What a function consists of: the function and, around it, what exports it or names its types."""
    while node.parent is not None and node.parent.type in source.language.wrappers:
        node = node.parent
    return node


def function_at(node: Node, outer: Node, source: Source, root: str, path: str) -> TreeFunction:
    """The function ``node`` with all of ``outer``, moved to the left margin.

    Raises LeftOut where that would change a string over several lines, and where little code is left.
    """
    if node.has_error:
        raise LeftOut("syntax error")
    if source.shares_line(outer):
        raise LeftOut("shares a line")
    first, doc_rows = _beginning(outer, source)
    line = source.raw.rfind(b"\n", 0, outer.start_byte) + 1
    margin = source.raw[line : outer.start_byte].decode()
    if margin and any(
        inner.type in source.language.strings and inner.start_point[0] != inner.end_point[0]
        for inner in nodes_of(outer)
    ):
        raise LeftOut("not to be dedented")
    rows = first, outer.end_point[0]
    code = source.code(source.raw, rows, margin)
    function = TreeFunction(root, path, first + 1, code, source.key, source, node, rows, margin, doc_rows)
    if sum(any(map(str.isalnum, line)) for line in function.without_doc()) < FEWEST_LINES - 1:  # and a brace
        raise LeftOut("too short")
    return function


def nodes_of(node: Node) -> Iterator[Node]:
    """A node and all in it, in source order."""
    pending = [node]
    while pending:
        inner = pending.pop()
        yield inner
        pending += reversed(inner.children)


def is_test(node: Node, source: Source) -> bool:
    """Whether a function is a test, in a file that is not one of tests: Rust's attributes, GoogleTest's macros."""
    if source.key == "cpp":
        return re.match(rb"(TYPED_)?TEST(_[FP])?\s*\(", node.text) is not None
    if source.key != "rust":
        return False
    while node is not None:
        before = node.prev_named_sibling
        while before is not None and (before.type in source.language.attributes or "comment" in before.type):
            if re.match(rb"#\[\s*(\w+::)*test\b|#\[\s*cfg\s*\(\s*test\b", before.text):
                return True
            before = before.prev_named_sibling
        node = node.parent
    return False


def _is_declared(node: Node) -> bool:
    """Whether a function has a body, and a name of its own."""
    body = node.child_by_field_name("body")
    if body is None or body.child(0) is None or body.child(0).type != "{":
        return False
    if node.type == "method_definition":
        return node.parent.type == "class_body"
    if node.type not in _CALLBACKS:
        return True
    declarator = node.parent
    declaration = declarator.parent if declarator is not None and declarator.type == "variable_declarator" else None
    return declaration is not None and declaration.type == "lexical_declaration" and declaration.named_child_count == 1


def _beginning(outer: Node, source: Source) -> tuple[int, Span | None]:
    """The row on which a function begins, with its attributes and what documents it; and the rows of the latter."""
    first: int = outer.start_point[0]
    doc: Span | None = None
    before = outer.prev_named_sibling
    while before is not None and _last_row(before) == first - 1 and not _follows_code(before, source):
        if before.type in source.language.attributes:
            first = before.start_point[0]
        elif "comment" in before.type and re.match(source.language.doc_comment.encode(), before.text):
            if doc is not None and doc[0] != first:
                break  # an attribute between two comments
            doc = before.start_point[0], doc[1] if doc else _last_row(before)
            first = before.start_point[0]
        else:
            break
        before = before.prev_named_sibling
    return first, doc


def _last_row(node: Node) -> int:
    row, column = node.end_point
    return row - (column == 0)  # Rust's comments end after their line


def _follows_code(node: Node, source: Source) -> bool:
    return bool(source.raw[source.raw.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte].strip())


def _comment_text(lines: list[str]) -> str:
    """What a comment says, without its marks."""
    bare = [re.sub(r"^(/\*+!?|//[/!]?|\*(?!/)) ?", "", line.strip()) for line in lines]
    return "\n".join(re.sub(r"\s*\*+/$", "", line).rstrip() for line in bare).strip("\n")
