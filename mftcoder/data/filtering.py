"""Which samples of all tasks the filters leave out, and the list of them.

::

    what is in a benchmark  ->  duplicates of what is left  ->  hold-out  ->  training samples like held-out ones

Of duplicates the first stays: in the order of the tasks, of their files and of the records in these.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mftcoder.config.schema import Filters
from mftcoder.data.filters.duplicates import Match, Sketches, find_duplicates, find_leaks
from mftcoder.data.filters.minhash import Shingles
from mftcoder.data.sketches import TaskSketches

EXACT = "exact duplicates of an earlier one"
NEAR = "near-duplicates of an earlier one"
IN_BENCHMARK = "in a benchmark"
LEAK = "like a held-out one"
LEFT_IN = "like a held-out one were left in training"
FILTERED = "filtered.jsonl"  # in the folder of the shards

Indices = NDArray[np.int64]


class Filtering:
    """The samples of K tasks, numbered within their tasks as in ``sketches``."""

    def __init__(self, filters: Filters, tasks: Sequence[str], sketches: Sequence[TaskSketches]) -> None:
        self._filters = filters
        self._tasks = tasks
        self._shingles_of = [one.sketches.shingles for one in sketches]
        self._in_benchmarks = [one.in_benchmarks for one in sketches]
        self._for_validation = np.concatenate([one.for_validation for one in sketches])
        self._places = [one.place for one in sketches]
        self._firsts = np.cumsum([0, *(len(one.sketches.exact) for one in sketches)])  # [K + 1] among all samples
        self._all = Sketches(
            np.concatenate([one.sketches.exact for one in sketches]),
            np.concatenate([one.sketches.bands for one in sketches]),
            np.concatenate([one.sketches.low_bytes for one in sketches]),
            self._shingles,
        )
        self.listed: list[dict] = []  # all that was found, for FILTERED
        self.dropped = [Counter[str]() for _ in tasks]  # per task: reason -> samples, but for leaks

    @property
    def removes_leaks(self) -> bool:
        """Whether training samples like held-out ones are to be left out."""
        return self._filters.leakage == "remove"

    def keep(self) -> list[Indices]:
        """The samples of each task that are neither in a benchmark nor duplicates, and all from validation files."""
        stays = np.ones(len(self._all.exact), np.bool_)
        checked = ~self._for_validation
        for task, found in enumerate(self._in_benchmarks):
            for sample, (reason, item, score) in found.items():
                if not checked[self._firsts[task] + sample]:
                    continue
                stays[self._firsts[task] + sample] = False
                self._list(task, sample, IN_BENCHMARK, item=item, test=reason, score=round(score, 6))
                self.dropped[task][IN_BENCHMARK] += 1
        firsts = {"off": self._firsts[:0], "across": self._firsts[[0, -1]], "within": self._firsts}[
            self._filters.duplicates
        ]
        for first, last in pairwise(firsts.tolist()):
            among = first + np.flatnonzero((stays & checked)[first:last])
            for match in find_duplicates(self._all, among, self._filters.similarity):
                reason = EXACT if match.exact else NEAR
                self._list_match(match, reason, removed=True)
                self.dropped[self._find(match.sample)[0]][reason] += 1
                stays[match.sample] = False
        return [np.flatnonzero(stays[first:last]) for first, last in pairwise(self._firsts)]

    def leaks(self, held_out: Sequence[Indices], trained: Sequence[Indices]) -> list[Indices]:
        """Of each task's samples ``trained`` those that repeat one of ``held_out`` of any task."""
        if self._filters.leakage == "off":
            return [np.zeros(0, np.int64) for _ in self._tasks]
        held, train = (
            np.concatenate([first + some for first, some in zip(self._firsts, parts, strict=False)])
            for parts in (held_out, trained)
        )
        found: list[list[int]] = [[] for _ in self._tasks]
        for match in find_leaks(self._all, held, train, self._filters.similarity):
            self._list_match(match, LEAK, removed=self.removes_leaks)
            task, sample = self._find(match.sample)
            found[task].append(sample)
        return [np.array(samples, np.int64) for samples in found]

    def _list_match(self, match: Match, reason: str, *, removed: bool) -> None:
        task, original = self._find(match.original)
        of = {"task": self._tasks[task], "place": self._places[task](original)}
        self._list(*self._find(match.sample), reason, removed=removed, of=of, similarity=round(match.similarity, 6))

    def _list(self, task: int, sample: int, reason: str, *, removed: bool = True, **details: object) -> None:
        place = self._places[task](sample)
        self.listed.append({"task": self._tasks[task], "place": place, "reason": reason, "removed": removed, **details})

    def _find(self, sample: int) -> tuple[int, int]:
        """The task of a sample, and its number there."""
        task = int(np.searchsorted(self._firsts, sample, side="right")) - 1
        return task, sample - int(self._firsts[task])

    def _shingles(self, sample: int) -> Shingles:
        task, number = self._find(sample)
        return self._shingles_of[task](number)
