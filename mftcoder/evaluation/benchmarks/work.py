"""What all steps of a benchmark's run share: its options, its files, and the judging of many programs."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mftcoder.evaluation.answering import Tell
from mftcoder.evaluation.benchmarks.judging import Execution, judge, key_of
from mftcoder.evaluation.benchmarks.problems import Problem
from mftcoder.evaluation.benchmarks.store import Key, Store
from mftcoder.evaluation.sampling import Sampling
from mftcoder.sandbox.sandbox import Sandbox

_AHEAD = 16  # programs in line for each worker


@dataclass(frozen=True)
class Options:
    """How a model is asked, and how programs are run."""

    sampling: Sampling = Sampling(max_new_tokens=512)  # noqa: RUF009 - it is frozen
    samples: int = 1  # of each problem
    k: tuple[int, ...] = (1,)  # of pass@k; none above ``samples``
    chat: bool | None = None  # ask through the chat template; None: where the model has one
    language: str | None = None  # of problems that do not say
    limit: int | None = None  # only the first so many problems of each file
    batch_size: int = 8  # completions written at once
    allow_execution: bool = False
    workers: int = 1  # programs at the same time
    execution: Execution = field(default_factory=Execution)


class Benchmark(NamedTuple):
    """One file of problems."""

    name: str
    path: Path
    problems: list[Problem]

    def digest(self) -> str:
        """Another one when the file has changed."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


class Work(NamedTuple):
    """Where and how to work; ``sandbox`` is None where nothing is executed."""

    folder: Path
    options: Options
    sandbox: Sandbox | None
    tell: Tell

    def judge_all(self, programs: Sequence[tuple[Key, Problem, str]], store: Store) -> None:
        """Puts the verdict on each program into ``store``, unless it holds that of the same program and limits."""
        execution = self.options.execution
        keys = {key: key_of(problem, program, execution) for key, problem, program in programs}
        waiting = [one for one in programs if store.get(one[0], "judged") != keys[one[0]]]
        with ThreadPoolExecutor(self.options.workers) as pool:
            for start in range(0, len(waiting), step := _AHEAD * self.options.workers):
                some = waiting[start : start + step]
                verdicts = pool.map(lambda one: judge(one[1], one[2], self.sandbox, execution), some)
                for (key, _, _), verdict in zip(some, verdicts, strict=True):
                    store.add(key, outcome=verdict.outcome, stderr=verdict.stderr, judged=keys[key])
