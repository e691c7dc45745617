"""pass@k of benchmarks, alone or beside another model's, as JSON values and as a table."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mftcoder.evaluation.benchmarks.attempts import Attempts
from mftcoder.evaluation.benchmarks.judging import PASSED
from mftcoder.evaluation.benchmarks.scoring import Vector, bootstrap, pass_at_k
from mftcoder.evaluation.benchmarks.work import Benchmark
from mftcoder.evaluation.benchmarks.writing import NO_ROOM


def summaries(
    benchmark: Benchmark, ks: Sequence[int], own: Mapping[str, bool], ours: Attempts, theirs: Attempts | None
) -> Iterator[dict[str, Any]]:
    """One object for each language of ``benchmark``.

    Args:
        ks: the k of pass@k.
        own: whether the benchmark's own solution passes, by problem.
        ours, theirs: what became of completions; with theirs, each pass@k has the paired difference to it in points,
            and a 95 % interval of that.
    """
    for language in dict.fromkeys(problem.language for problem in benchmark.problems):
        names = [problem.name for problem in benchmark.problems if problem.language == language]
        tried = [attempt for name in names for attempt in ours[name]]
        solved = [name for name in names if name in own]
        yield {
            "benchmark": benchmark.name,
            "path": str(benchmark.path),
            "language": language,
            "problems": len(names),
            "own_solutions": {"tried": len(solved), "failed": [name for name in solved if not own[name]]},
            "outcomes": dict(Counter(attempt.outcome for attempt in tried).most_common()),
            "cut": sum(attempt.finish == "length" for attempt in tried),
            "no_room": sum(attempt.finish == NO_ROOM for attempt in tried),
            **{
                f"pass@{k}": _score(_each(ours, names, k), None if theirs is None else _each(theirs, names, k))
                for k in ks
            },
        }


def _each(attempts: Attempts, names: Sequence[str], k: int) -> Vector:
    """pass@k of each problem [N]."""
    passed = [sum(attempt.outcome == PASSED for attempt in attempts[name]) for name in names]
    return np.array([pass_at_k(len(attempts[name]), count, k) for name, count in zip(names, passed, strict=True)])


def _score(ours: Vector, theirs: Vector | None) -> dict[str, Any]:
    score: dict[str, Any] = {"value": float(ours.mean()), "interval": bootstrap(ours)}
    if theirs is not None:
        score |= {"against": float(theirs.mean()), "difference": float((ours - theirs).mean())}
        score["difference_interval"] = bootstrap(ours - theirs)
    return score


def table(result: Mapping[str, Any]) -> Table:
    """The result of ``run`` for people."""
    both = result["against"] is not None
    columns = ["benchmark", "language", "problems", "samples", "", "score", "95 % interval"]
    shown = Table(*columns, *(["against", "difference", "95 % interval"] if both else []))
    for entry in result["benchmarks"]:
        for name, score in entry.items():
            if not name.startswith("pass@"):
                continue
            cells = [entry["benchmark"], entry["language"], f"{entry['problems']:,}", f"{result['samples']:,}", name]
            cells += [f"{score['value']:.1%}", _interval(score["interval"], "{:.1%}")]
            if both:
                cells += [f"{score['against']:.1%}", f"{100 * score['difference']:+.1f}"]
                cells.append(_interval(score["difference_interval"], "{:+.1f}", 100))
            shown.add_row(*cells)
    return shown


def _interval(bounds: Sequence[float] | None, form: str, factor: float = 1) -> str:
    return " … ".join(form.format(factor * bound) for bound in bounds) if bounds else "all alike"
