"""Tasks made of existing code: comment it, write tests for it, translate it, repair a bug that was put in, explain it.

What the model is told at length is not what the sample asks: that is one of the short wordings in ``ask-NAME``.
``TRANSFORMS`` is the table; each makes question, answer and parts of a reply, or raises LeftOut.
"""

import ast
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from mftcoder.construct.functions import LeftOut, parse
from mftcoder.construct.generators.work import Work
from mftcoder.construct.parsing import canonical, code_blocks, code_in, displayed, fenced
from mftcoder.construct.samples import Sample, conversation
from mftcoder.construct.seeds import Piece, drawn, read_pieces, read_snippets
from mftcoder.construct.settings.generators import Transform

_TELLTALES = ("bug", "defect", "wrong", "incorrect", "mistake", "error:")


class _Made(NamedTuple):
    """What a reply gives: the code that is shown, the answer, and what verification needs."""

    shown: str
    answer: str
    parts: dict[str, str]


def _comment(piece: Piece, reply: str, into: str) -> _Made:
    code = code_in(reply, piece.language)
    if len(code) <= len(piece.code):
        raise LeftOut("no comment added")
    if piece.language == "python" and _bare(code) != _bare(piece.code):
        raise LeftOut("the code was changed")
    return _Made(piece.code, fenced(code, piece.language), {"code": code, "language": piece.language})


def _tests(piece: Piece, reply: str, into: str) -> _Made:
    tests = code_in(reply, piece.language)
    if piece.language == "python" and not _tests_something(tests, piece.code):
        raise LeftOut("tests nothing")
    parts = {"code": piece.code, "tests": tests, "language": piece.language}
    return _Made(piece.code, fenced(tests, piece.language), parts)


def _translate(piece: Piece, reply: str, into: str) -> _Made:
    code = code_in(reply, into)
    return _Made(piece.code, fenced(code, canonical(into)), {"code": code, "language": canonical(into)})


def _repair(piece: Piece, reply: str, into: str) -> _Made:
    """The reply is a sentence on the bug and the code with it; the answer is the sentence and the code without it."""
    defective = code_in(reply, piece.language)
    about = reply.partition("```")[0].strip()
    if defective.split() == piece.code.split() or (
        piece.language == "python" and _bare(defective) == _bare(piece.code)
    ):
        raise LeftOut("no bug put in")
    if piece.language == "python" and parse(defective) is None:
        raise LeftOut("does not parse")
    if not about:
        raise LeftOut("nothing said about the bug")
    added = set(defective.lower().splitlines()) - set(piece.code.lower().splitlines())
    if any(word in line for line in added for word in _TELLTALES):
        raise LeftOut("gives the bug away")
    parts = {"code": piece.code, "defective": defective, "language": piece.language}
    return _Made(defective, f"{about}\n\n{fenced(piece.code, piece.language)}", parts)


def _explain(piece: Piece, reply: str, into: str) -> _Made:
    code_blocks(reply)
    return _Made(piece.code, reply, {})


TRANSFORMS: dict[str, Callable[[Piece, str, str], _Made]] = {
    "comment": _comment,
    "tests": _tests,
    "translate": _translate,
    "repair": _repair,
    "explain": _explain,
}


async def transform(settings: Transform, work: Work) -> AsyncIterator[Sample]:
    """Samples of one piece of code: piece by piece, transform by transform."""
    pieces = _pieces(settings, work)
    if settings.max_pieces is not None:
        pieces = iter(drawn(list(pieces), settings.max_pieces, work.rng("pieces")))

    async def make(task: tuple[Piece, str]) -> Sample:
        piece, name = task
        rng = work.rng(name, piece.id)
        others = [one for one in settings.into if canonical(one) != piece.language]
        if name == "translate" and not others:
            raise LeftOut("in that language already")
        into = rng.choice(others) if others else ""
        languages = {"language": displayed(piece.language), "into": into}
        reply = await work.ask(work.prompts.text(name, code=fenced(piece.code, piece.language), **languages))
        made = TRANSFORMS[name](piece, reply.text, into)
        wording = rng.choice(work.prompts.text(f"ask-{name}", **languages).splitlines())
        return Sample(
            conversation(f"{wording}\n\n{fenced(made.shown, piece.language)}", made.answer),
            (name, f"ask-{name}"),
            (reply.key,),
            {"transform": name, "piece": piece.id, **({"into": into} if name == "translate" else {})},
            piece.group,
            None if name == "explain" else "code",
            made.parts,
        )

    tasks = ((piece, name) for piece in pieces for name in settings.transforms)
    async for sample in work.each(make, tasks, "transform"):
        yield sample


def _pieces(settings: Transform, work: Work) -> Iterator[Piece]:
    step = work.step("pieces")
    if settings.snippets is not None:
        return read_snippets(settings.snippets, settings.max_piece_chars, step)
    roots = settings.roots or [sysconfig.get_path("stdlib")]
    return read_pieces(roots, settings.max_piece_chars, step)


def _bare(code: str) -> str:
    """The syntax tree without docstrings: comments are not in it anyway. Empty where the code does not parse."""
    tree = parse(code)
    if tree is None:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def _tests_something(tests: str, code: str) -> bool:
    """Whether the tests parse, name a function of ``code`` and assert anything."""
    tree, tested = parse(tests), parse(code)
    if tree is None or tested is None:
        return False
    names = {
        node.name for node in tested.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    asserts = any(isinstance(node, ast.Assert) for node in nodes) or any(name.startswith("assert") for name in used)
    return asserts and bool(names & used)
