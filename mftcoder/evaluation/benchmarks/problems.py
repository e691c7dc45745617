"""The problems of a benchmark's file, in the forms that are in use.

code to complete   prompt, test, entry_point, canonical_solution, language     HumanEval, HumanEval-X, MBXP
code to write      text or prompt, test_list, test_setup_code, code            MBPP; also test (a list), test_setup
a number to find   question, answer                                            GSM8K
"""

import ast
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mftcoder.config.problems import show
from mftcoder.data.reading import SUFFIXES, read_file
from mftcoder.errors import MftcoderError
from mftcoder.sandbox.languages import LANGUAGES, canonical

Kind = Literal["complete", "write", "number"]
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


class Problem(NamedTuple):
    """One problem."""

    where: str  # path:line
    name: str
    kind: Kind
    language: str  # a name of ``LANGUAGES``; "text" of a number to find
    prompt: str  # code to go on with, or what is wanted in words
    tests: str  # code, or the number
    entry_point: str = ""  # the function under test, where it is named
    solution: str | None = None  # the benchmark's own: what a completion would be


def read_problems(path: Path, language: str | None = None) -> list[Problem]:
    """The problems of a file; ``language`` is that of all where they do not say.

    Raises MftcoderError, with the line, for what is not a problem of a known form.
    """
    if not path.name.endswith(SUFFIXES):
        raise MftcoderError(f"{path}: must be a file of one of the kinds {', '.join(SUFFIXES)}.")
    problems = [_problem(record, where, language) for where, record in read_file(path)]
    first: dict[str, str] = {}
    for problem in problems:
        if (before := first.setdefault(problem.name, problem.where)) != problem.where:
            raise MftcoderError(f'{problem.where}: task_id "{problem.name}" is that of {before}, too. Give it another.')
    return problems


def _problem(record: dict[str, Any], where: str, language: str | None) -> Problem:
    name = _name(record, where)
    for keys, kind in FORMS.items():
        if all(record.get(key) is not None for key in keys):
            return kind(record, where, name, language)
    forms = "; ".join(", ".join(keys) for keys in FORMS)
    raise MftcoderError(f"{where}: must have the keys of one of: {forms}. Found {show(list(record))}.")


def _complete(record: dict[str, Any], where: str, name: str, language: str | None) -> Problem:
    if isinstance(record["test"], list):
        return _write(record, where, name, language)
    prompt, tests = _text(record, "prompt", where), _text(record, "test", where)
    spoken = _language(record, where, name, tests, language)
    entry_point = _optional(record, "entry_point", where)
    if spoken == "python" and not entry_point and "def check(" in tests and "\ncheck(" not in tests:
        raise MftcoderError(f"{where}: test defines check, but no entry_point says what to check. Name the function.")
    if spoken == "go" and "func main(" not in tests:
        raise MftcoderError(f"{where}: test has no func main. Only programs are run, not what needs `go test`.")
    solution = _optional(record, "canonical_solution", where) or None
    return Problem(where, name, "complete", spoken, prompt, tests, entry_point, solution)


def _write(record: dict[str, Any], where: str, name: str, language: str | None) -> Problem:
    wanted = _text(record, "text" if "text" in record else "prompt", where)
    before = [_optional(record, key, where) for key in ("test_setup_code", "test_setup")]
    before += _lines(record, "test_imports", where) if record.get("test_imports") else []
    tests = _lines(record, "test_list" if "test_list" in record else "test", where)
    spoken = _language(record, where, name, "\n".join(tests), language)
    solution = _optional(record, "code" if "code" in record else "canonical_solution", where) or None
    return Problem(where, name, "write", spoken, wanted, "\n".join(filter(None, [*before, *tests])), "", solution)


def _number(record: dict[str, Any], where: str, name: str, language: str | None) -> Problem:
    solution = _text(record, "answer", where)
    if (number := last_number(solution)) is None:
        raise MftcoderError(f"{where}: answer must end in a number; found {show(solution)}.")
    return Problem(where, name, "number", "text", _text(record, "question", where), number, "", solution)


def last_number(text: str) -> str | None:
    """The number behind the last ####, else the last one in ``text``, written in one way; None if there is none."""
    _, marked, answer = text.rpartition("####")
    found = _NUMBER.findall(answer)
    if not found:
        return None
    number = Decimal((found[0] if marked else found[-1]).replace(",", "").replace("$", ""))
    return f"{number.normalize():f}"


FORMS: Mapping[tuple[str, ...], Callable[[dict[str, Any], str, str, str | None], Problem]] = {
    ("prompt", "test"): _complete,
    ("text", "test_list"): _write,
    ("prompt", "test_list"): _write,
    ("question", "answer"): _number,
}


def _name(record: dict[str, Any], where: str) -> str:
    name = record.get("task_id", where.rpartition(":")[2])
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise MftcoderError(f"{where}: task_id must be a text or an integer; found {show(name)}.")
    return str(name)


def _language(record: dict[str, Any], where: str, name: str, tests: str, given: str | None) -> str:
    """What the record says, else what the command line does, else the task_id, as in Java/7; else Python, if it is."""
    said = record.get("language") or given
    if said is None and (first := canonical(name.partition("/")[0])) in LANGUAGES:
        said = first
    if said is None:
        if not _is_python(tests):
            raise MftcoderError(f"{where}: has no language, and test is not Python. Add the key, or --language NAME.")
        said = "python"
    if not isinstance(said, str) or (language := canonical(said)) not in LANGUAGES:
        raise MftcoderError(f"{where}: language must be one of {', '.join(LANGUAGES)}; found {show(said)}.")
    return language


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _text(record: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(value := record.get(key), str) or not value.strip():
        raise MftcoderError(f"{where}: {key} must be a text that is not empty; found {show(value)}.")
    return value


def _optional(record: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(value := record.get(key) or "", str):
        raise MftcoderError(f"{where}: {key} must be a text; found {show(value)}.")
    return value


def _lines(record: dict[str, Any], key: str, where: str) -> list[str]:
    value = record.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(line, str) for line in value):
        raise MftcoderError(f"{where}: {key} must be a list of texts that is not empty; found {show(value)}.")
    return value
