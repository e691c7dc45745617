"""What becomes of the samples of all tasks before rows are made of them: filtered, fitted to rows, held out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.filtering import LEAK, LEFT_IN, Filtering, Indices
from mftcoder.data.fitting import Pieces, fit_all
from mftcoder.data.holdout import Holdout, Split, divide, hold_out, seeded
from mftcoder.data.inputs import Settings
from mftcoder.data.parts import EncodedPart, PartCounts
from mftcoder.data.samples import TaskSamples
from mftcoder.errors import MftcoderError


@dataclass(frozen=True)
class Plan:
    """What becomes of the records of a task."""

    task: str
    samples: TaskSamples  # those that were not filtered out
    pieces: Pieces
    held: Holdout  # of the pieces
    counts: Sequence[PartCounts]
    fitting: Counter[str]  # as in fitting.Fitted
    dropped: Counter[str]  # reason -> samples
    noted: Counter[str]  # what else happened -> to how many records
    leaked: int = 0  # training samples that this or another task holds out: the same record, or one of the same group

    def groups_in(self, *splits: Split) -> NDArray[np.uint64]:
        """The groups of the pieces of some splits."""
        return self.samples.groups[self.pieces.sample[np.concatenate([self.held.members[split] for split in splits])]]


def plan_all(
    by_task: Sequence[Sequence[EncodedPart]],
    counts: Mapping[Path, PartCounts],
    settings: Settings,
    filtering: Filtering | None,
) -> list[Plan]:
    """The plans of all tasks, given as their encoded parts; MftcoderError if nothing of one is left to train on."""
    plans = []
    kept = filtering.keep() if filtering else []
    for task, parts in enumerate(by_task):
        made = [counts[part.file] for part in parts]
        samples = TaskSamples(parts, made)
        dropped = sum((Counter(count.dropped) for count in made), Counter[str]())
        if filtering:
            samples.keep(kept[task])
            dropped += filtering.dropped[task]
        plans.append(_plan(parts[0].task.name, samples, made, dropped, settings))
    if filtering:
        plans = _checked_for_leaks(plans, kept, filtering)
    held_out = np.concatenate([plan.groups_in(Split.PROBE, Split.VALIDATION) for plan in plans])
    return [replace(plan, leaked=int(np.isin(plan.groups_in(Split.TRAIN), held_out).sum())) for plan in plans]


def _plan(
    task: str, samples: TaskSamples, counts: Sequence[PartCounts], dropped: Counter[str], settings: Settings
) -> Plan:
    pieces, fitting, too_long = fit_all(samples, settings.sequence_length, settings.over_long)
    dropped = dropped + too_long
    given = samples.held_out[pieces.sample]
    if given.all():
        raise _nothing_left(task, dropped)
    groups = seeded(samples.groups, settings.seed)[pieces.sample]
    amount = settings.held_out[task]
    held = divide(groups, given) if amount == "files" else hold_out(groups, samples.named[pieces.sample], amount)
    noted = sum((Counter(count.noted) for count in counts), Counter[str]())
    return Plan(task, samples, pieces, held, counts, fitting, dropped, noted)


def _checked_for_leaks(plans: Sequence[Plan], kept: Sequence[Indices], filtering: Filtering) -> list[Plan]:
    """``plans`` of the samples ``kept``, where training samples that repeat held-out ones are dropped or counted."""
    held_out, trained = (
        [
            each[np.unique(plan.pieces.sample[np.concatenate([plan.held.members[split] for split in splits])])]
            for plan, each in zip(plans, kept, strict=True)
        ]
        for splits in ((Split.PROBE, Split.VALIDATION), (Split.TRAIN,))
    )
    checked = []
    for plan, each, leaks in zip(plans, kept, filtering.leaks(held_out, trained), strict=True):
        train = plan.held.members[Split.TRAIN]
        is_leak = np.isin(each[plan.pieces.sample[train]], leaks)
        if not filtering.removes_leaks:
            checked.append(replace(plan, noted=plan.noted + Counter({LEFT_IN: int(is_leak.sum())})))
            continue
        dropped = plan.dropped + Counter({LEAK: int(is_leak.sum())})
        if is_leak.all():
            raise _nothing_left(plan.task, dropped)
        held = plan.held._replace(members={**plan.held.members, Split.TRAIN: train[~is_leak]})
        checked.append(replace(plan, held=held, dropped=dropped))
    return checked


def _nothing_left(task: str, dropped: Counter[str]) -> MftcoderError:
    reasons = "; ".join(f"{number} with {reason}" for reason, number in sorted(dropped.items()))
    return MftcoderError(
        f'task "{task}": no supervised token is left to train on: all samples were dropped ({reasons}).'
    )
