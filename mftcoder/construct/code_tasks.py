"""Training records made of one function: each maker gives a record or raises LeftOut with the reason."""

import re
from collections.abc import Callable
from random import Random
from typing import Any

from mftcoder.construct.defects import defect
from mftcoder.construct.functions import Doc, Function, LeftOut, Span
from mftcoder.construct.languages import LANGUAGES
from mftcoder.construct.parsing import fenced

FEWEST_WORDS = 3  # of documentation
FEWEST_CHARS = 8  # of a line to be completed, and of a middle to be filled in

Record = dict[str, Any]
RecordMaker = Callable[[Function, Random], Record]


def completion(function: Function, rng: Random) -> Record:
    """A function's beginning -> the rest; cut before a random statement after the first."""
    statements = function.statements
    cuts = sorted({first for first, _ in statements if first > statements[0][0]}) if statements else []
    if not cuts:
        raise LeftOut("one statement")
    cut = rng.choice(cuts) - 1
    prompt = f"Complete this {_name(function)} function. Answer with the code that follows, nothing else."
    return _cut(function, prompt, cut)


def completion_body(function: Function, rng: Random) -> Record:
    """Signature, and documentation if there is any -> body."""
    return _cut(function, f"Complete this {_name(function)} function with its body.", function.body_line - 1)


def completion_block(function: Function, rng: Random) -> Record:
    """A function up to a loop, a condition or the like -> what stands inside it."""
    if not function.blocks:
        raise LeftOut("no block")
    first, last = rng.choice(function.blocks)
    prompt = f"Complete the block that this {_name(function)} function ends with. Answer with its lines, nothing else."
    answer = code_block(function, function.lines[first - 1 : last])
    return _asked(function, prompt, function.lines[: first - 1], answer)


def completion_line(function: Function, rng: Random) -> Record:
    """A function up to somewhere in a line of a statement -> the rest of the line."""
    lines = function.lines
    ends = {number for first, last in function.statements for number in range(first, last + 1)}
    long = [number for number in sorted(ends) if len(lines[number - 1].strip()) >= FEWEST_CHARS]
    if not long:
        raise LeftOut("no line of some length")
    line = rng.choice(long)
    text = lines[line - 1]
    breaks = [found.start() for found in re.finditer(r"(?<=\S)\b|(?<=[(\[{,=])", text) if found.start() < len(text)]
    indent = len(text) - len(text.lstrip())
    cut = rng.choice([indent, *(place for place in breaks if place > indent)])
    prompt = f"Complete the last line of this {_name(function)} code. Answer with the rest of the line, nothing else."
    beginning = [*lines[: line - 1], text[:cut]]
    return _asked(function, prompt, beginning, code_block(function, [text[cut:]]))


def infill(function: Function, rng: Random) -> Record:
    """What stands before and after a statement or a block -> what stands there; as text with the place of its middle.

    Half of the middles are whole statements or blocks, half some part of a line.
    """
    lines = function.lines
    spans = sorted({*function.statements, *function.blocks})
    if not spans:
        raise LeftOut("no statement")
    starts = [0]
    for text in lines:
        starts.append(starts[-1] + len(text) + 1)
    first, last = rng.choice(spans)
    start, end = starts[first - 1], starts[last] - 1
    if rng.random() < 0.5:
        line = rng.randint(first, last)
        words = [match.start() for match in re.finditer(r"\b", lines[line - 1])]
        if len(words) >= 2:
            start, end = (starts[line - 1] + place for place in sorted(rng.sample(words, 2)))
    middle = function.code[start:end]
    if not middle.strip():
        raise LeftOut("nothing in the middle")
    return {"prefix": function.code[:start], "middle": middle, "suffix": function.code[end:]} | _origin(function)


def text_to_code(function: Function, rng: Random) -> Record:
    """Signature and documentation -> body, from its first line that is not blank."""
    _documented(function)
    return _cut(function, f"Write the body of this {_name(function)} function.", function.body_line - 1)


def comment(function: Function, rng: Random) -> Record:
    """A function without its documentation -> the documentation, without quotes, marks and indentation."""
    doc = _documented(function)
    kind = "docstring" if function.language == "python" else "documentation comment"
    prompt = f"Write the {kind} of this {_name(function)} function."
    return _asked(function, prompt, function.without_doc(), doc.text)


def repair(function: Function, rng: Random) -> Record:
    """A function with one defect -> the function; the record names the defect's kind and line."""
    found = defect(function, rng)
    prompt = f"This {_name(function)} function has one defect. Write the corrected function."
    record = _asked(function, prompt, found.lines, code_block(function, function.lines))
    return record | {"defect": {"kind": found.kind, "line": found.line}}


CODE_TASKS: dict[str, RecordMaker] = {
    "completion": completion,
    "completion-line": completion_line,
    "completion-block": completion_block,
    "completion-body": completion_body,
    "infill": infill,
    "text-to-code": text_to_code,
    "comment": comment,
    "repair": repair,
}


def asked(function: Function, prompt: str, answer: str) -> Record:
    """A record of one question and its answer about a function."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages} | _origin(function)


def size(record: Record) -> int:
    """Characters that a record holds."""
    if "messages" in record:
        return sum(len(message["content"]) for message in record["messages"])
    return sum(len(record[part]) for part in ("prefix", "middle", "suffix"))


def question(record: Record) -> str:
    """What two records must not have in common."""
    return record["messages"][0]["content"] if "messages" in record else f"{record['prefix']}\0{record['suffix']}"


def _name(function: Function) -> str:
    return LANGUAGES[function.language].name


def code_block(function: Function, lines: list[str]) -> str:
    """A Markdown code block. Its fence also keeps chat templates from stripping the first line's indentation."""
    return fenced("\n".join(lines), LANGUAGES[function.language].fence)


def _cut(function: Function, prompt: str, cut: int) -> Record:
    """The lines before the cut -> those after it."""
    return _asked(function, prompt, function.lines[:cut], code_block(function, function.lines[cut:]))


def _asked(function: Function, prompt: str, shown: list[str], answer: str) -> Record:
    return asked(function, f"{prompt}\n\n{code_block(function, shown)}", answer)


def _documented(function: Function) -> Doc:
    """What documents the function; raises LeftOut unless it says something, on lines of its own."""
    doc = function.doc
    if doc is None:
        raise LeftOut("no documentation")
    if len(doc.text.split()) < FEWEST_WORDS:
        raise LeftOut("documentation too short")
    if not doc.text.isascii() and any("\ud800" <= c <= "\udfff" for c in doc.text):
        raise LeftOut("documentation not text")
    if not doc.alone:
        raise LeftOut("documentation shares a line")
    return doc


def _origin(function: Function) -> Record:
    """Where a record's function came from; ``group`` keeps a file's records together."""
    lines: Span = (function.line, function.line + len(function.lines) - 1)
    source = {"root": function.root, "path": function.path, "line": lines[0], "last_line": lines[1]}
    return {"group": function.path, "source": source | {"language": function.language}}
