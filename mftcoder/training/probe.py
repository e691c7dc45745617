"""The probe: fixed, task-stratified validation rows that weightings watch.

Few, large looks at the same rows beat many small ones at changing rows: the noise of a slope is the noise between two
looks, and with the same rows most of it cancels. CoBa's presets "paper" and "released" look at one mini-batch of all
the rows after every step, as their authors did.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mftcoder.config.schema import PROBE_EVERY_STEPS, CoBa, Weighting
from mftcoder.data.loader import Loader
from mftcoder.data.shards import Rows
from mftcoder.errors import MftcoderError

SHARE_OF_TRAINING = (
    0.15  # probe tokens per token trained between two looks; a forward pass costs about a third of a step
)

RowNumbers = list[tuple[int, int]]  # (task id, row within the task)


@dataclass(frozen=True)
class Probe:
    """What is looked at, and how often. A look takes the next of ``mini_batches``; most weightings have just one."""

    loader: Loader
    mini_batches: list[RowNumbers]
    every_steps: int
    sparse: bool = False  # looked at less often than usual, since it cannot be smaller

    def turn(self, step: int) -> int:
        """The number of the mini-batch to look at before step ``step``."""
        return step // self.every_steps % len(self.mini_batches)


def make_probe(weighting: Weighting, loader: Loader, *, rows_per_step: int, tokens_per_step: float) -> Probe | None:
    """The probe of a weighting, or None if it watches no validation; MftcoderError if CoBa's window is too short.

    Args:
        loader: of the probe split.
        rows_per_step: of training; the size of a mini-batch where there are several.
        tokens_per_step: what a training step trains on, for the default size.
    """
    settings = getattr(weighting, "probe", None)
    if settings is None:
        return None
    if isinstance(weighting, CoBa) and weighting.preset != "efficient":
        return Probe(loader, mini_batches(loader.tasks, rows_per_step), every_steps=1)
    by_cost = settings.every_steps is None and settings.tokens is None
    every = _default_steps(loader, tokens_per_step) if by_cost else settings.every_steps or PROBE_EVERY_STEPS
    if isinstance(weighting, CoBa) and weighting.window_steps is not None and every >= weighting.window_steps:
        raise MftcoderError(
            f"loss.weighting.window_steps: must be more than the {every} steps from one look at the probe to the next, "
            f"so that a slope has two points; found {weighting.window_steps}. Delete it, or set "
            "loss.weighting.probe.every_steps."
        )
    tokens = settings.tokens or SHARE_OF_TRAINING * every * tokens_per_step
    return Probe(loader, [first_rows(loader.tasks, tokens)], every, sparse=by_cost and every > PROBE_EVERY_STEPS)


def _default_steps(loader: Loader, tokens_per_step: float) -> int:
    """Steps between two looks, as many as the smallest probe needs to cost no more than its share of training.

    To look less often is better than to look at some of the tasks at a time, whose slopes would lag all the same and
    lie between other steps than those they are compared with.
    """
    smallest = sum(len(rows[0].input_ids) for rows in loader.tasks if len(rows))
    return max(PROBE_EVERY_STEPS, math.ceil(smallest / (SHARE_OF_TRAINING * tokens_per_step)))


def first_rows(tasks: Sequence[Rows], tokens: float) -> RowNumbers:
    """Of each task as many of its first rows as fit into an equal share of ``tokens``, at least one if it has any.

    The rows of a shard lie in an order that was drawn by seed, so its first rows are a random sample.
    """
    chosen = []
    for task, rows in enumerate(tasks):
        used = 0
        for row in range(len(rows)):
            used += len(rows[row].input_ids)
            if row > 0 and used > tokens / len(tasks):
                break
            chosen.append((task, row))
    return chosen


def mini_batches(tasks: Sequence[Rows], rows_each: int) -> list[RowNumbers]:
    """All rows in mini-batches of about ``rows_each``, every task spread over them as evenly as its rows allow."""
    rows = [(task, row) for task, its_rows in enumerate(tasks) for row in range(len(its_rows))]
    number = max(1, round(len(rows) / rows_each))
    return [rows[first::number] for first in range(number)]
