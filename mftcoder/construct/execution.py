"""Proof by execution: tests pass on their solution, and fail on some mutant of it."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mftcoder.construct.mutants import mutants
from mftcoder.construct.settings.samples import ExecuteVerification
from mftcoder.errors import MftcoderError
from mftcoder.sandbox.languages import LANGUAGES, NOT_COMPILED, canonical, folders, missing, program
from mftcoder.sandbox.outcome import MIB, Limits, Outcome
from mftcoder.sandbox.sandbox import Sandbox

_NO_MODULE = ("ModuleNotFoundError: No module named", "Error: Cannot find module", "error: package ", "fatal error: ")
_LIMITS = {"time": "over time", "memory": "over memory", "output": "too much output", "files": "too many files"}
_TOLD = 300  # characters
_MOST_TRIED = 5  # times as many mutants as are asked for: some do not compile


class Case(NamedTuple):
    """What is to be proven."""

    language: str
    solution: str
    tests: str
    entry_point: str = ""  # the function under test, for tests that are a function ``check`` of it


class Proof(NamedTuple):
    """``reason`` is what a case is left out for, empty where it is proven; ``details`` go with the sample."""

    reason: str
    details: dict[str, Any]
    unverifiable: bool = False  # nothing was found out


@contextmanager
def open_sandbox(settings: ExecuteVerification, *, allowed: bool, workers: int) -> Iterator[Sandbox]:
    """The sandbox for ``prove``. Raises MftcoderError where executing is not allowed, or cannot be contained."""
    if not allowed:
        raise MftcoderError("verify executes programs that a model wrote, in a sandbox. Allow it: --allow-execution.")
    shown, search = folders()
    modules = [Path(folder) for folder in settings.modules.values()]
    for folder in modules:
        if not folder.is_dir():
            raise MftcoderError(f"verify.modules: {folder} is no folder. Install the modules there.")
    with Sandbox(workers=workers, folders=[*shown, *modules], search=search) as sandbox:
        yield sandbox


def prove(case: Case, settings: ExecuteVerification, sandbox: Sandbox) -> Proof:
    """Runs the tests on the solution, then on mutants until one fails. The same case gives the same proof.

    Raises RunError where the sandbox does not work.
    """
    language = canonical(case.language)
    if language not in LANGUAGES:
        return Proof(f"language {language or 'unknown'}", {}, unverifiable=True)
    if absent := missing(language):
        return Proof(f"no {' and '.join(absent)}", {}, unverifiable=True)
    if not case.tests.strip():
        return Proof("no tests", {})
    outcome = _run(case, case.solution, settings, sandbox)
    if reason := _reason(outcome):
        return Proof(reason, {"stderr": _told(outcome.stderr)}, unverifiable=reason == "module not there")
    if not settings.mutants:
        return Proof("", {"language": language})
    return _tried(case, language, settings, sandbox)


def _tried(case: Case, language: str, settings: ExecuteVerification, sandbox: Sandbox) -> Proof:
    seed = hashlib.blake2b(f"{case.solution}\0{case.tests}".encode("utf-8", "replace"), digest_size=8).digest()
    candidates = mutants(language, case.solution, Random(int.from_bytes(seed)))
    tried = 0
    for kind, code in candidates[: settings.mutants * _MOST_TRIED]:
        outcome = _run(case, code, settings, sandbox)
        if _no_program(outcome):
            continue
        tried += 1
        if not outcome.ok:
            return Proof("", {"language": language, "mutants": tried, "noticed": kind})
        if tried == settings.mutants:
            break
    return Proof("tests notice no mutant" if tried else "no mutant", {"mutants": tried})


def _run(case: Case, solution: str, settings: ExecuteVerification, sandbox: Sandbox) -> Outcome:
    limits = Limits(
        cpu_seconds=settings.cpu_seconds,
        wall_seconds=settings.wall_seconds,
        memory_bytes=settings.memory_mib * MIB,
    )
    language = canonical(case.language)
    files, command = program(language, solution, case.tests, case.entry_point, _real(settings.modules))
    return sandbox.run(files, command, limits)


def _real(modules: Mapping[Any, str]) -> dict[str, str]:
    return {language: str(Path(folder).resolve()) for language, folder in modules.items()}


def _reason(outcome: Outcome) -> str:
    if outcome.ok:
        return ""
    if outcome.reason != "failed":
        return _LIMITS[outcome.reason]
    if any(text in outcome.stderr for text in _NO_MODULE):
        return "module not there"
    return "does not compile" if _no_program(outcome) else "fails its tests"


def _no_program(outcome: Outcome) -> bool:
    """Whether a compiler, or node, found fault before anything was run."""
    return outcome.exit_code == NOT_COMPILED or (outcome.exit_code == 1 and "\nSyntaxError: " in outcome.stderr)


def _told(text: str) -> str:
    """Of error output, where it begins and where it ends: languages differ in where they say what it was."""
    return text if len(text) <= 2 * _TOLD else f"{text[:_TOLD]} … {text[-_TOLD:]}"
