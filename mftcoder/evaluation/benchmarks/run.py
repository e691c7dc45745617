"""``evaluate --benchmark``: completions of one model or two, executed and scored.

TO/MODEL/STEM.jsonl and .settings.json   completions and verdicts (``store``); what is there is not made again
TO/MODEL/result.json                     the result
TO/STEM.solutions.jsonl                  the verdicts on the benchmark's own solutions
"""

import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mftcoder.errors import MftcoderError
from mftcoder.evaluation.answering import Tell
from mftcoder.evaluation.benchmarks.asking import program_of
from mftcoder.evaluation.benchmarks.attempts import attempts
from mftcoder.evaluation.benchmarks.judging import PASSED
from mftcoder.evaluation.benchmarks.problems import read_problems
from mftcoder.evaluation.benchmarks.results import summaries
from mftcoder.evaluation.benchmarks.store import Store, replace
from mftcoder.evaluation.benchmarks.work import Benchmark, Options, Work
from mftcoder.locks import locked
from mftcoder.sandbox.languages import missing
from mftcoder.sandbox.sandbox import Sandbox
from mftcoder.sandbox.testing import open_sandbox

_NAMED = 5  # problems that a message names


def run(
    model: str, paths: Sequence[Path], folder: Path, options: Options, *, against: str | None = None, tell: Tell
) -> dict[str, Any]:
    """pass@k of each benchmark and language, as JSON values; with the paired difference to ``against``, if given.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id; ``against`` too.
        paths: files of problems.
        folder: for completions and results. Called again, what lies there is kept, and the rest is done.
        options: how models are asked, and programs run.
        tell: takes lines of progress.

    Raises MftcoderError for bad problems, toolchains that are not there, and where programs cannot be contained.
    """
    benchmarks = _read(paths, options)
    with _sandbox(benchmarks, options) as sandbox, locked(folder / ".lock", "its completions and verdicts", tell):
        work = Work(folder, options, sandbox, tell)
        own = [_own_solutions(benchmark, work) for benchmark in benchmarks]
        ours, chat = attempts(model, benchmarks, folder / _slug(model), work)
        theirs = attempts(against, benchmarks, folder / _slug(against), work)[0] if against else [None] * len(own)
        found = [
            summary
            for benchmark, solved, mine, other in zip(benchmarks, own, ours, theirs, strict=True)
            for summary in summaries(benchmark, options.k, solved, mine, other)
        ]
        asked = {"chat": chat, "samples": options.samples, "sampling": asdict(options.sampling)}
        result = {"model": model, "against": against, **asked, "benchmarks": found}
        replace(folder / _slug(model) / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def _read(paths: Sequence[Path], options: Options) -> list[Benchmark]:
    found: dict[str, Benchmark] = {}
    for path in paths:
        name = path.name.split(".", 1)[0]
        if name in found:
            raise MftcoderError(f"{path}: has the same name as {found[name].path}. Rename one of them.")
        found[name] = Benchmark(name, path, read_problems(path, options.language)[: options.limit])
    for benchmark in found.values():
        for language in dict.fromkeys(problem.language for problem in benchmark.problems if problem.kind != "number"):
            if absent := missing(language):
                raise MftcoderError(
                    f"{benchmark.path}: is in {language}, but there is no {' and no '.join(absent)} on this machine. "
                    "Install it, or leave the benchmark out."
                )
    return list(found.values())


def _sandbox(benchmarks: Sequence[Benchmark], options: Options) -> AbstractContextManager[Sandbox | None]:
    if all(problem.kind == "number" for benchmark in benchmarks for problem in benchmark.problems):
        return nullcontext()
    return open_sandbox(
        allowed=options.allow_execution,
        asked_by="--benchmark",
        workers=options.workers,
        modules=options.execution.modules,
    )


def _own_solutions(benchmark: Benchmark, work: Work) -> dict[str, bool]:
    """Whether the benchmark's own solutions pass on this machine; MftcoderError where all of a language fail."""
    programs = [
        ((problem.name, 0), problem, program_of(problem, problem.solution, chat=False))
        for problem in benchmark.problems
        if problem.solution is not None
    ]
    with Store(work.folder, f"{benchmark.name}.solutions", {"benchmark": benchmark.digest()}) as store:
        work.judge_all(programs, store)
        store.finish(key for key, _, _ in programs)
    passed = {problem.name: store.get(key, "outcome") == PASSED for key, problem, _ in programs}
    for language in dict.fromkeys(problem.language for _, problem, _ in programs):
        keys = [key for key, problem, _ in programs if problem.language == language]
        if not any(passed[name] for name, _ in keys):
            raise MftcoderError(
                f"{benchmark.path}: its own solutions in {language} all fail on this machine, so that it says nothing "
                f"of a model. {keys[0][0]}: {store.get(keys[0], 'outcome')}: {store.get(keys[0], 'stderr').strip()}\n"
                "Install what is missing; folders of modules are shown to programs by --modules."
            )
    if failed := [name for name, ok in passed.items() if not ok]:
        named = ", ".join(failed[:_NAMED]) + (" …" if len(failed) > _NAMED else "")
        work.tell(f"{benchmark.path}: {len(failed)} of its {len(passed)} own solutions fail on this machine: {named}")
    return passed


def _slug(model: str) -> str:
    """The name of a model's folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"
