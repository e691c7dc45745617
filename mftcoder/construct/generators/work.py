"""What every generator is given to work with."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from mftcoder.construct.answers import Answer
from mftcoder.construct.asking import Asker, in_order
from mftcoder.construct.functions import LeftOut
from mftcoder.construct.output import Tally
from mftcoder.construct.prompts import Prompts
from mftcoder.construct.samples import Message, Sample

Item = TypeVar("Item")
Made = TypeVar("Made")

_AHEAD = 4  # items under way for each request at a time: one that is slow does not hold up the others


@dataclass
class Work:
    """Asking, prompts, drawing and counting. What a generator makes depends on these and its settings alone."""

    asker: Asker
    prompts: Prompts
    seed: int
    concurrency: int
    steps: dict[str, Tally] = field(default_factory=dict)  # in the order in which they were first used

    def step(self, name: str) -> Tally:
        """The counts of a step."""
        return self.steps.setdefault(name, Tally())

    def rng(self, *names: object) -> Random:
        """A random generator for what has these names: it does not depend on what was drawn before."""
        return Random(" ".join(map(str, [self.seed, *names])))

    async def ask(self, prompt: str, draw: int = 0) -> Answer:
        """The answer to one message. Raises LeftOut where there is none to use."""
        return await self.asker.ask([{"role": "user", "content": prompt}], draw)

    async def talk(self, messages: list[Message]) -> Answer:
        """The answer to a conversation. Raises LeftOut where there is none to use."""
        return await self.asker.ask(messages)

    async def each(
        self, make: Callable[[Item], Awaitable[Made]], items: Iterable[Item], step: str | None = None
    ) -> AsyncIterator[Made]:
        """What ``make`` gives for each item, many at once, in order; items that it leaves out are counted in ``step``.

        ``make`` counts a LeftOut of asking twice if ``step`` is given: as an answer and as an item.
        """
        async for made in in_order(make, items, _AHEAD * self.concurrency):
            if isinstance(made, LeftOut):
                if step:
                    self.step(step).left_out[str(made)] += 1
                continue
            if step:
                self.step(step).used += 1
            yield made


Samples = AsyncIterator[Sample]
