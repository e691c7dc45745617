"""The defects that fit a function of a tree-sitter language. An edit is a span of its file's bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from mftcoder.construct.languages import Language, parser
from mftcoder.construct.trees import Node, TreeFunction, nodes_of

Edit = tuple[int, int, bytes]

_COMPARISONS = {
    b"<": b"<=",
    b"<=": b"<",
    b">": b">=",
    b">=": b">",
    b"==": b"!=",
    b"!=": b"==",
    b"===": b"!==",
    b"!==": b"===",
}
_AND_OR = {b"&&": b"||", b"||": b"&&"}
_PLUS_MINUS = {b"+": b"-", b"-": b"+"}
_SYMMETRIC = {b"max", b"min"}  # calls that do not mind the order of their arguments
_NAMES = {"identifier"}  # members, types and labels have nodes of their own


@dataclass(frozen=True)
class _Scope:
    """Parameters and local variables: name -> declared type, and where the declaration ends."""

    language: Language
    bound: dict[bytes, tuple[bytes, int]]


def _operator(node: Node) -> Node | None:
    found = node.child_by_field_name("operator")
    return found if node.type == "binary_expression" else None


def _swapped(node: Node, table: dict[bytes, bytes]) -> Iterator[Edit]:
    operator = _operator(node)
    if operator is not None and operator.text in table:
        yield operator.start_byte, operator.end_byte, table[operator.text]


def _comparison(node: Node, scope: _Scope) -> Iterator[Edit]:
    yield from _swapped(node, _COMPARISONS)


def _and_or(node: Node, scope: _Scope) -> Iterator[Edit]:
    yield from _swapped(node, _AND_OR)


def _plus_minus(node: Node, scope: _Scope) -> Iterator[Edit]:
    if not any(inner.type in scope.language.strings for inner in nodes_of(node)):  # no concatenation
        yield from _swapped(node, _PLUS_MINUS)


def _off_by_one(node: Node, scope: _Scope) -> Iterator[Edit]:
    """Only numbers that count something: a wrong timeout or a wrong year could not be known from the function."""
    operator = _operator(node)
    counts = operator is not None and operator.text in {**_COMPARISONS, **_PLUS_MINUS}
    if counts or node.type in scope.language.subscripts:
        for number in node.named_children:
            if number.type in scope.language.numbers and number.text.isdigit():
                value = int(number.text)
                for wrong in (value + 1, value - 1):
                    if wrong >= 0:
                        yield number.start_byte, number.end_byte, str(wrong).encode()


def _wrong_variable(node: Node, scope: _Scope) -> Iterator[Edit]:
    if node.type in _NAMES and node.text in scope.bound and not _is_written(node):
        kind, declared = scope.bound[node.text]
        if declared <= node.start_byte:
            for name, (other_kind, other_declared) in scope.bound.items():
                if name != node.text and other_kind == kind and other_declared <= node.start_byte:
                    yield node.start_byte, node.end_byte, name


def _missing_not(node: Node, scope: _Scope) -> Iterator[Edit]:
    if node.type == "unary_expression" and node.child(0).type == "!":
        yield node.start_byte, node.child(1).start_byte, b""


def _missing_return(node: Node, scope: _Scope) -> Iterator[Edit]:
    """Only where a value may be left unused, and a function without return is none that compilers refuse."""
    if not scope.language.typed and node.type == "return_statement" and node.named_child_count:
        yield node.start_byte, node.named_child(0).start_byte, b""


def _swapped_arguments(node: Node, scope: _Scope) -> Iterator[Edit]:
    if node.type not in scope.language.arguments or _name_called(node) in _SYMMETRIC:
        return
    arguments = [child for child in node.named_children if "comment" not in child.type]
    for left, right in pairwise(arguments):
        same_kind = left.type == right.type or not scope.language.typed
        if same_kind and left.text != right.text and "spread" not in left.type + right.type:
            middle = node.text[left.end_byte - node.start_byte : right.start_byte - node.start_byte]
            yield left.start_byte, right.end_byte, right.text + middle + left.text


def _break_continue(node: Node, scope: _Scope) -> Iterator[Edit]:
    if node.type.startswith(("break_", "continue_")) and not node.named_child_count:
        around = node.parent
        while around.type not in scope.language.loops | scope.language.switches | scope.language.functions:
            around = around.parent
            if around is None:
                return
        if around.type in scope.language.loops:
            old, new = (b"break", b"continue") if node.type.startswith("break") else (b"continue", b"break")
            yield node.start_byte, node.start_byte + len(old), new


DEFECTS: dict[str, Callable[[Node, _Scope], Iterator[Edit]]] = {
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


def edits(function: TreeFunction) -> dict[str, list[Edit]]:
    """All edits that would put a defect into the function's body, by kind."""
    scope = _Scope(function.source.language, _bound(function))
    nodes = list(nodes_of(function.body))
    return {kind: [edit for node in nodes for edit in find(node, scope)] for kind, find in DEFECTS.items()}


def edited(function: TreeFunction, edit: Edit) -> tuple[int, str] | None:
    """The line of the edit in the function's code, and the code with it; None where it is a syntax error."""
    start, end, new = edit
    raw = function.source.raw
    whole = raw[:start] + new + raw[end:]
    node, grown = function.node, len(new) - (end - start)
    tree = parser(function.source.key).parse(whole)
    again = tree.root_node.descendant_for_byte_range(node.start_byte, node.end_byte + grown)
    while again.parent is not None and again.type != node.type and again.byte_range == again.parent.byte_range:
        again = again.parent
    if again.type != node.type or again.has_error or again.end_byte != node.end_byte + grown:
        return None
    return raw.count(b"\n", 0, start) - function.rows[0] + 1, function.source.code(
        whole, function.rows, function.margin
    )


def _bound(function: TreeFunction) -> dict[bytes, tuple[bytes, int]]:
    """Names that are declared once."""
    language = function.source.language
    bound: dict[bytes, tuple[bytes, int]] = {}
    twice = set()
    for node in nodes_of(function.node):
        if node.type in language.declarations:
            kind = node.child_by_field_name("type")
            for name, written in _declared(node):
                twice |= {name} & bound.keys()
                bound[name] = ((kind.text if kind is not None else b"") + written, node.end_byte)
    if language.typed:
        bound = {name: found for name, found in bound.items() if found[0]}
    return {name: found for name, found in bound.items() if name not in twice}


def _declared(node: Node) -> Iterator[tuple[bytes, bytes]]:
    """The names in a declaration, and how their declarators look without the name (``*_``)."""
    if node.type == "formal_parameters":  # JavaScript's
        yield from ((child.text, b"") for child in node.named_children if child.type in _NAMES)
    for field in ("name", "pattern", "declarator"):
        for declarator in node.children_by_field_name(field):
            while (inner := _inner_declarator(declarator)) is not None:
                declarator = inner
            names = [child for child in nodes_of(declarator) if child.type in _NAMES]
            if len(names) == 1:
                yield names[0].text, declarator.text.replace(names[0].text, b"_")


def _inner_declarator(node: Node) -> Node | None:
    """What stands before ``=``."""
    if node.type == "variable_declarator":
        return node.child_by_field_name("name")
    return node.child_by_field_name("declarator") if node.type == "init_declarator" else None


def _is_written(node: Node) -> bool:
    """Whether a name is declared, assigned, or calls a function here."""
    parent = node.parent
    if any(parent.child_by_field_name(field) == node for field in ("name", "pattern", "declarator", "function", "key")):
        return True
    assigned = parent.child_by_field_name("left")
    return "assignment" in parent.type and assigned is not None and assigned == node


def _name_called(arguments: Node) -> bytes:
    called = arguments.parent.child_by_field_name("function") or arguments.parent.child_by_field_name("name")
    return called.text if called is not None else b""
