"""Evol-Instruct (Xu et al., ICLR 2024): instructions made harder or different along named axes, then answered.

::

    each round, each instruction:  axis  ->  rewritten  ->  evolved?   yes: it takes the old one's place
                                                                        no: the old one is tried again next round
    at the end:                    every instruction that evolved, of every round  ->  its answer

What has not evolved is eliminated: a copy, one that got out of hand, words of the request itself, or, if a judge is
asked, one that means the same.
"""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

from mftcoder.construct.functions import LeftOut
from mftcoder.construct.generators.work import Work
from mftcoder.construct.novelty import rouge_l
from mftcoder.construct.samples import Sample, conversation
from mftcoder.construct.seeds import Seed, drawn, read_seeds
from mftcoder.construct.settings.generators import Evolve
from mftcoder.errors import MftcoderError

_LONG = 600  # characters: shorter ones never count as out of hand
_FEWEST_WORDS = 3
_OF_THE_REQUEST = re.compile(
    r"given (prompt|instruction)|(rewritten|evolved|original|new) (prompt|instruction)"
    r"|here is (the|a|your) (new|rewritten)",
    re.IGNORECASE,
)


class _Instruction(NamedTuple):
    text: str
    seed: Seed
    axes: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()


async def evolve(settings: Evolve, work: Work) -> AsyncIterator[Sample]:
    """Samples of one evolved instruction and its answer: round by round, seed by seed."""
    for axis in settings.axes:
        if f"axis-{axis}" not in work.prompts:
            raise MftcoderError(
                f'generator.axes: there is no axis "{axis}". Give its prompt: "prompts": {{"axis-{axis}": FILE}}.'
            )
    seeds = drawn(read_seeds(settings.seeds), settings.max_seeds, work.rng("seeds"))
    living = [_Instruction(seed.instruction, seed) for seed in seeds]
    evolved = list(living) if settings.keep_seeds else []
    for round_number in range(1, settings.rounds + 1):
        after = [one async for one in _round(settings, work, living, round_number)]
        evolved += [new for old, new in zip(living, after, strict=True) if new is not old]
        living = after

    async def answer(one: _Instruction) -> Sample:
        reply = await work.ask(work.prompts.text("answer", instruction=one.text))
        return Sample(
            conversation(one.text, reply.text),
            (*(f"axis-{axis}" for axis in one.axes), *(["judge"] if settings.judge and one.axes else []), "answer"),
            (*one.requests, reply.key),
            {"seeds": [one.seed.id], "axes": list(one.axes)},
            f"seed {one.seed.id}",
        )

    async for sample in work.each(answer, evolved):
        yield sample


async def _round(settings: Evolve, work: Work, living: list[_Instruction], number: int) -> AsyncIterator[_Instruction]:
    """Each of the ``living``, evolved or as it was."""

    async def attempt(one: _Instruction) -> tuple[_Instruction, str]:
        axis = work.rng("axis", number, one.seed.id).choice(settings.axes)
        try:
            return await _evolved(settings, work, one, axis, number), ""
        except LeftOut as reason:
            return one, str(reason)

    step = work.step(f"round {number}")
    async for one, reason in work.each(attempt, living):
        if reason:
            step.left_out[reason] += 1
        else:
            step.used += 1
        yield one


async def _evolved(settings: Evolve, work: Work, one: _Instruction, axis: str, draw: int) -> _Instruction:
    """``one`` along an axis. Raises LeftOut where it has not evolved. ``draw``: a failure is not to be met again."""
    reply = await work.ask(work.prompts.text(f"axis-{axis}", instruction=one.text), draw)
    text = reply.text
    if len(text.split()) < _FEWEST_WORDS and len(text) < 12:
        raise LeftOut("too short")
    if _OF_THE_REQUEST.search(text):
        raise LeftOut("words of the request")
    if len(text) > _LONG and len(text) > settings.max_growth * len(one.text):
        raise LeftOut("out of hand")
    if rouge_l(text, one.text) >= settings.max_rouge:
        raise LeftOut("a copy")
    requests = (*one.requests, reply.key)
    if settings.judge:
        verdict = await work.ask(work.prompts.text("judge", first=one.text, second=text))
        if not verdict.text.lower().startswith("different"):
            raise LeftOut("the same to the judge")
        requests = (*requests, verdict.key)
    return _Instruction(text, one.seed, (*one.axes, axis), requests)
