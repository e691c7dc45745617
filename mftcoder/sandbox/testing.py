"""Running tests on a solution in the sandbox, and saying in a word what came of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mftcoder.errors import MftcoderError
from mftcoder.sandbox.languages import NOT_COMPILED, folders, program
from mftcoder.sandbox.outcome import Limits, Outcome
from mftcoder.sandbox.sandbox import Sandbox

NO_MODULE = "module not there"

_NO_MODULE = ("ModuleNotFoundError: No module named", "Error: Cannot find module", "error: package ", "fatal error: ")
_LIMITS = {"time": "over time", "memory": "over memory", "output": "too much output", "files": "too many files"}
_TOLD = 300  # characters


@contextmanager
def open_sandbox(*, allowed: bool, asked_by: str, workers: int, modules: Mapping[str, str]) -> Iterator[Sandbox]:
    """The sandbox for ``run_tests``.

    Args:
        allowed: whether programs may be executed.
        asked_by: the setting that wants it, which messages begin with.
        workers: programs at the same time.
        modules: folders with modules, by language; they exist.

    Raises MftcoderError where executing is not allowed, or programs cannot be contained.
    """
    if not allowed:
        raise MftcoderError(
            f"{asked_by} executes programs that a model wrote, in a sandbox. Allow it: --allow-execution."
        )
    shown, search = folders()
    with Sandbox(workers=workers, folders=[*shown, *map(Path, modules.values())], search=search) as sandbox:
        yield sandbox


def run_tests(
    sandbox: Sandbox,
    language: str,
    solution: str,
    tests: str,
    entry_point: str = "",
    *,
    limits: Limits,
    modules: Mapping[str, str],
) -> Outcome:
    """What became of a solution and its tests as one program; the arguments are those of ``languages.program``.

    Raises RunError where the sandbox does not work.
    """
    real = {name: str(Path(folder).resolve()) for name, folder in modules.items()}
    files, command = program(language, solution, tests, entry_point, real)
    return sandbox.run(files, command, limits)


def failure(outcome: Outcome) -> str:
    """Why the tests did not pass, in a few words; empty where they did."""
    if outcome.ok:
        return ""
    if outcome.reason != "failed":
        return _LIMITS[outcome.reason]
    if any(text in outcome.stderr for text in _NO_MODULE):
        return NO_MODULE
    return "does not compile" if is_no_program(outcome) else "fails its tests"


def is_no_program(outcome: Outcome) -> bool:
    """Whether a compiler, or node, found fault before anything was run."""
    return outcome.exit_code == NOT_COMPILED or (outcome.exit_code == 1 and "\nSyntaxError: " in outcome.stderr)


def shortened(text: str) -> str:
    """Of error output, where it begins and where it ends: languages differ in where they say what it was."""
    return text if len(text) <= 2 * _TOLD else f"{text[:_TOLD]} … {text[-_TOLD:]}"
