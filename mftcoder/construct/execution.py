"""Proof by execution: tests pass on their solution, and fail on some mutant of it."""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mftcoder.construct.mutants import mutants
from mftcoder.construct.settings.samples import ExecuteVerification
from mftcoder.errors import MftcoderError
from mftcoder.sandbox import testing
from mftcoder.sandbox.languages import LANGUAGES, canonical, missing
from mftcoder.sandbox.outcome import MIB, Limits, Outcome
from mftcoder.sandbox.sandbox import Sandbox

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


def open_sandbox(settings: ExecuteVerification, *, allowed: bool, workers: int) -> AbstractContextManager[Sandbox]:
    """The sandbox for ``prove``. Raises MftcoderError where executing is not allowed, or cannot be contained."""
    for folder in settings.modules.values():
        if not Path(folder).is_dir():
            raise MftcoderError(f"verify.modules: {folder} is no folder. Install the modules there.")
    return testing.open_sandbox(allowed=allowed, asked_by="verify", workers=workers, modules=_modules(settings))


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
    if reason := testing.failure(outcome):
        return Proof(reason, {"stderr": testing.shortened(outcome.stderr)}, unverifiable=reason == testing.NO_MODULE)
    if not settings.mutants:
        return Proof("", {"language": language})
    return _tried(case, language, settings, sandbox)


def _tried(case: Case, language: str, settings: ExecuteVerification, sandbox: Sandbox) -> Proof:
    seed = hashlib.blake2b(f"{case.solution}\0{case.tests}".encode("utf-8", "replace"), digest_size=8).digest()
    candidates = mutants(language, case.solution, Random(int.from_bytes(seed)))
    tried = 0
    for kind, code in candidates[: settings.mutants * _MOST_TRIED]:
        outcome = _run(case, code, settings, sandbox)
        if testing.is_no_program(outcome):
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
    return testing.run_tests(
        sandbox,
        canonical(case.language),
        solution,
        case.tests,
        case.entry_point,
        limits=limits,
        modules=_modules(settings),
    )


def _modules(settings: ExecuteVerification) -> dict[str, str]:
    return {str(language): folder for language, folder in settings.modules.items()}
