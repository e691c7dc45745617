"""Solutions made wrong in one place, to see whether their tests notice.

Python is changed in its syntax tree; other languages by their tokens, so that some mutants do not compile.
"""

import ast
import re
from collections.abc import Callable, Iterator
from random import Random

from mftcoder.construct.functions import parse

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_KEPT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Return, ast.Pass)

# kind: what is looked for in the code between comments and strings, and what stands there instead
_SYMBOLS: dict[str, tuple[str, dict[str, str]]] = {
    "comparison": (
        r"(?<=\s)(?:<=|>=|===|!==|==|!=|<|>)(?=\s)",
        {"<": ">=", ">": "<=", "<=": ">", ">=": "<", "==": "!=", "!=": "==", "===": "!==", "!==": "==="},
    ),
    "operator": (r"(?<=[\w)\]] )[-+*/%](?= [\w(])", {"+": "-", "-": "+", "*": "+", "/": "*", "%": "*"}),
    "logic": (r"&&|\|\|", {"&&": "||", "||": "&&"}),
}
_RETURNS = {
    "javascript": ("return undefined; return {0};",),
    "cpp": ("return {{}};", "return !({0});", "return ({0}) + 1;"),
    "java": ("return !({0});", "return ({0}) + 1;", "return null;"),
    "go": ("return !({0})", "return ({0}) + 1", "return nil"),
}
_QUIET = re.compile(
    r"//[^\n]*|/\*.*?\*/|^[ \t]*#[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`[^`]*`", re.S | re.M
)

Mutant = tuple[str, str]  # kind and code


def mutants(language: str, code: str, rng: Random) -> list[Mutant]:
    """All mutants of ``code``, kinds in turn, each in random order; none where it does not parse."""
    made = _of_python(code) if language == "python" else _of_tokens(language, code)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in made:
        if mutant[1] != code:
            by_kind.setdefault(mutant[0], []).append(mutant)
    for same in by_kind.values():
        rng.shuffle(same)
    rounds = max(map(len, by_kind.values()), default=0)
    return [same[turn] for turn in range(rounds) for same in by_kind.values() if turn < len(same)]


def _of_python(code: str) -> Iterator[Mutant]:
    tree = parse(code)
    if tree is None:
        return
    for node in list(ast.walk(tree)):
        for kind, change in _changes(node):
            undo = change()
            yield kind, ast.unparse(tree)
            undo()


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], Callable[[], None]]]]:
    """What can be made wrong at a node: each change returns how to take it back."""
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield "return", lambda: _set(node, "value", ast.Constant(None))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield "comparison", lambda: _set(node, "ops", [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield "operator", lambda: _set(node, "op", _OPERATORS[type(node.op)]())
    if isinstance(node, ast.BoolOp):
        yield "logic", lambda: _set(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        wrong = not node.value if isinstance(node.value, bool) else node.value + 1
        yield "constant", lambda: _set(node, "value", wrong)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.For | ast.While | ast.If | ast.With):
        for position, statement in enumerate(node.body):
            if not isinstance(statement, _KEPT) and not _is_text(statement):
                kept = [*node.body[:position], ast.Pass(), *node.body[position + 1 :]]
                yield "statement", lambda kept=kept: _set(node, "body", kept)  # type: ignore[misc]


def _set(node: ast.AST, name: str, value: object) -> Callable[[], None]:
    before = getattr(node, name)
    setattr(node, name, value)
    return lambda: setattr(node, name, before)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _of_tokens(language: str, code: str) -> Iterator[Mutant]:
    quiet = [match.span() for match in _QUIET.finditer(code)]

    def found(pattern: str) -> Iterator[re.Match[str]]:
        for match in re.finditer(pattern, code):
            if not any(start <= match.start() < end for start, end in quiet):
                yield match

    end = r"[ \t]*$" if language == "go" else ";"
    for match in found(rf"(?m)\breturn\s+([^;\n{{}}]+?){end}"):
        for text in _RETURNS.get(language, ()):
            yield "return", _replaced(code, match, text.format(match[1]))
    for kind, (pattern, instead) in _SYMBOLS.items():
        for match in found(pattern):
            yield kind, _replaced(code, match, instead[match[0]])
    for match in found(r"\b(?:true|false)\b"):
        yield "constant", _replaced(code, match, "false" if match[0] == "true" else "true")
    for match in found(r"(?<![\w.])\d+(?![\w.])"):
        yield "constant", _replaced(code, match, str(int(match[0]) + 1))


def _replaced(code: str, match: re.Match[str], text: str) -> str:
    return code[: match.start()] + text + code[match.end() :]
