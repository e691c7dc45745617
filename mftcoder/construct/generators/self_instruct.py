"""Self-Instruct (Wang et al., ACL 2023): new instructions from examples of old ones, then answers.

::

    pool = seeds
    each round:  R requests, each shown examples of the pool  ->  instructions  ->  usable?  ->  new?  ->  pool
    at the end:  each new instruction  ->  its answer

The requests of a round see the same pool, so the result does not depend on which answer comes first.
"""

import re
from collections.abc import AsyncIterator, Iterator
from random import Random

from mftcoder.construct.functions import LeftOut
from mftcoder.construct.generators.work import Work
from mftcoder.construct.novelty import Pool
from mftcoder.construct.parsing import numbered
from mftcoder.construct.samples import Sample, conversation
from mftcoder.construct.seeds import Seed, drawn, read_seeds
from mftcoder.construct.settings.generators import SelfInstruct

FEWEST_WORDS, MOST_WORDS = 4, 150  # as in the paper: shorter and longer ones are broken
_NOT_OF_TEXT = re.compile(
    r"\b(image|picture|photo|video|audio|graph|diagram|draw|plot|file attached|attached file)s?\b", re.I
)


async def self_instruct(settings: SelfInstruct, work: Work) -> AsyncIterator[Sample]:
    """Samples of one new instruction and its answer, in the order in which they were found."""
    seeds = read_seeds(settings.seeds)
    new = [found async for found in _invent(settings, work, seeds)]

    async def answer(found: "tuple[Seed, list[str]]") -> Sample:
        instruction, shown = found
        reply = await work.ask(work.prompts.text("answer", instruction=instruction.instruction))
        return Sample(
            conversation(instruction.instruction, reply.text),
            ("instructions", "answer"),
            (instruction.id.partition("/")[0], reply.key),
            {"seeds": shown},
        )

    async for sample in work.each(answer, new):
        yield sample


async def _invent(settings: SelfInstruct, work: Work, seeds: list[Seed]) -> AsyncIterator[tuple[Seed, list[str]]]:
    """New instructions, each with the ids of the examples it was made from."""
    pool = Pool()
    for seed in seeds:
        pool.add(seed.instruction)
    new: list[Seed] = []
    barren = number = 0

    async def propose(examples: list[Seed]) -> tuple[str, str, list[Seed]]:
        prompt = work.prompts.text(
            "instructions", examples=[example.instruction for example in examples], number=settings.per_request
        )
        reply = await work.ask(prompt)
        return reply.key, reply.text, examples

    while len(new) < settings.instructions and barren < settings.barren_rounds and not work.asker.spent:
        before = len(new)
        rngs = [work.rng("examples", number + i) for i in range(settings.requests_per_round)]
        number += settings.requests_per_round
        shown = [_examples(settings, seeds, new, rng) for rng in rngs]
        async for key, text, examples in work.each(propose, shown):
            for place, instruction in enumerate(_usable(text, settings.per_request, work)):
                if len(new) < settings.instructions and _is_new(instruction, pool, settings.max_rouge, work):
                    pool.add(instruction)
                    new.append(Seed(f"{key}/{place}", instruction))
                    yield new[-1], [example.id for example in examples]
        barren = 0 if len(new) > before else barren + 1


def _examples(settings: SelfInstruct, seeds: list[Seed], new: list[Seed], rng: Random) -> list[Seed]:
    """Seeds and earlier new instructions to show, in drawn order."""
    some = drawn(new, settings.new_examples, rng)
    some += drawn(seeds, settings.seed_examples + settings.new_examples - len(some), rng)
    rng.shuffle(some)
    return some


def _usable(text: str, most: int, work: Work) -> Iterator[str]:
    """The instructions in a numbered list that can be answered in text."""
    step = work.step("parse")
    items = numbered(text)
    if not items:
        step.left_out["no list"] += 1
    for instruction in items[:most]:
        if step.attempt(_check, instruction) is not None:
            yield instruction
    if len(items) > most:
        step.left_out["more than asked for"] += len(items) - most


def _check(instruction: str) -> str:
    num_words = len(instruction.split())
    if num_words < FEWEST_WORDS and len(instruction) < 12:  # languages without spaces have few words
        raise LeftOut("too short")
    if num_words > MOST_WORDS:
        raise LeftOut("too long")
    if not instruction[0].isalnum() and instruction[0] not in "\"'`(¿":
        raise LeftOut("begins with a mark")
    if _NOT_OF_TEXT.search(instruction):
        raise LeftOut("not a task of text")
    return instruction


def _is_new(instruction: str, pool: Pool, max_rouge: float, work: Work) -> bool:
    step = work.step("novelty")
    if pool.nearest(instruction, at_least=max_rouge) is not None:
        step.left_out["like an earlier one"] += 1
        return False
    step.used += 1
    return True
