"""Training records made of one function: each maker gives a record or raises LeftOut with the reason."""

import ast
from collections.abc import Callable
from random import Random
from typing import Any

from mftcoder.construct.defects import defect
from mftcoder.construct.functions import Function, LeftOut, first_line, without_docstring
from mftcoder.construct.parsing import fenced

FEWEST_WORDS = 3  # of a docstring

Record = dict[str, Any]
RecordMaker = Callable[[Function, Random], Record]


def completion(function: Function, rng: Random) -> Record:
    """A function's beginning -> the rest; cut before a random statement after the first."""
    first = function.body[0]
    statements = [node for part in function.body for node in ast.walk(part) if isinstance(node, ast.stmt)]
    cuts = sorted({first_line(statement) for statement in statements if first_line(statement) > first.lineno})
    if not cuts:
        raise LeftOut("one statement")
    cut = rng.choice(cuts) - 1
    beginning, rest = function.lines[:cut], function.lines[cut:]
    prompt = "Complete this Python function. Answer with the code that follows, nothing else."
    return _record(function, f"{prompt}\n\n{_fenced(beginning)}", _fenced(rest))


def text_to_code(function: Function, rng: Random) -> Record:
    """Signature and docstring -> body, from its first line that is not blank."""
    cut = _docstring(function).end_lineno or 0
    while not function.lines[cut].strip():
        cut += 1
    signature, body = function.lines[:cut], function.lines[cut:]
    return _record(function, f"Write the body of this Python function.\n\n{_fenced(signature)}", _fenced(body))


def comment(function: Function, rng: Random) -> Record:
    """A function without its docstring -> the docstring, without quotes and indentation."""
    _docstring(function)
    prompt = f"Write the docstring of this Python function.\n\n{_fenced(without_docstring(function))}"
    return _record(function, prompt, ast.get_docstring(function.node) or "")


def repair(function: Function, rng: Random) -> Record:
    """A function with one defect -> the function; the record names the defect's kind and line."""
    found = defect(function, rng)
    prompt = f"This Python function has one defect. Write the corrected function.\n\n{_fenced(found.lines)}"
    return _record(function, prompt, _fenced(function.lines)) | {"defect": {"kind": found.kind, "line": found.line}}


CODE_TASKS: dict[str, RecordMaker] = {
    "completion": completion,
    "text-to-code": text_to_code,
    "comment": comment,
    "repair": repair,
}


def _fenced(lines: list[str]) -> str:
    """A Markdown code block. Its fence also keeps chat templates from stripping the first line's indentation."""
    return fenced("\n".join(lines), "python")


def _docstring(function: Function) -> ast.stmt:
    """The docstring's statement; raises LeftOut unless there is one that says something, on lines of its own."""
    doc = function.docstring
    if doc is None:
        raise LeftOut("no docstring")
    text = ast.get_docstring(function.node) or ""
    if len(text.split()) < FEWEST_WORDS:
        raise LeftOut("docstring too short")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise LeftOut("docstring not text")
    lines = function.lines
    before = lines[doc.lineno - 1].encode()[: doc.col_offset]
    after = lines[(doc.end_lineno or 0) - 1].encode()[doc.end_col_offset :].strip()
    if before.strip() or (after and not after.startswith(b"#")):
        raise LeftOut("docstring shares a line")
    return doc


def _record(function: Function, prompt: str, answer: str) -> Record:
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        "group": function.path,
        "source": {"root": function.root, "path": function.path, "line": function.line},
    }
