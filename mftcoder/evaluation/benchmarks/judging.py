"""Whether a solution passes the tests of its problem, or an answer ends in the right number."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from mftcoder.evaluation.benchmarks.problems import Problem, last_number
from mftcoder.sandbox.outcome import Limits
from mftcoder.sandbox.sandbox import Sandbox
from mftcoder.sandbox.testing import failure, run_tests, shortened

PASSED = "passed"
ENDED_EARLY = "ends before its tests"


@dataclass(frozen=True)
class Execution:
    """How programs are run."""

    limits: Limits = field(default_factory=Limits)
    modules: Mapping[str, str] = field(default_factory=dict)  # folders with modules, by language


class Verdict(NamedTuple):
    """What became of one completion."""

    outcome: str  # ``PASSED``, or why it did not
    stderr: str = ""  # the end and the beginning of what a program that failed had to say


def judge(problem: Problem, solution: str, sandbox: Sandbox | None, execution: Execution) -> Verdict:
    """The verdict on a solution: code, or the text whose last number is the answer.

    A program must run its tests to their end: in Python and JavaScript it prints a word behind them that it cannot
    know, so one that exits before does not pass. Raises RunError where the sandbox does not work.
    """
    if problem.kind == "number":
        found = last_number(solution)
        return Verdict(PASSED if found == problem.tests else "no number" if found is None else "another number")
    assert sandbox is not None
    word = secrets.token_hex(16)
    tests, says_so = _to_the_end(problem, word)
    outcome = run_tests(
        sandbox,
        problem.language,
        solution,
        tests,
        problem.entry_point,
        limits=execution.limits,
        modules=execution.modules,
    )
    if reason := failure(outcome):
        return Verdict(reason, shortened(outcome.stderr))
    return Verdict(PASSED if not says_so or word in outcome.stdout else ENDED_EARLY)


def key_of(problem: Problem, solution: str, execution: Execution) -> str:
    """What a verdict depends on, as a short text."""
    parts = (problem.language, solution, problem.tests, problem.entry_point, execution.limits, dict(execution.modules))
    return blake2b(repr(parts).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _to_the_end(problem: Problem, word: str) -> tuple[str, bool]:
    """The tests, then what prints ``word``; whether the language has such an end."""
    if problem.language == "javascript":
        return f'{problem.tests}\nconsole.log("{word}")', True
    if problem.language != "python":
        return problem.tests, False
    call = (
        f"check({problem.entry_point})\n" if "def check(" in problem.tests and "\ncheck(" not in problem.tests else ""
    )
    return f'{problem.tests}\n{call}print("\\n{word}")', True
