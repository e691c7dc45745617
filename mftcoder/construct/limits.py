"""How fast and how much: the pace of requests and tokens, and the budget."""

import asyncio
import time
from collections.abc import Callable

from mftcoder.construct.answers import Answers
from mftcoder.construct.settings.endpoint import Budget, Prices


class Pace:
    """Lets amounts through at a steady rate: each may go once those before it have had their time.

    ``per_minute`` None: no limit. ``clock`` counts seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._free_at = 0.0

    def take(self, amount: float) -> float:
        """Books ``amount`` and returns how many seconds from now it may go."""
        now = self._clock()
        starts_at = max(now, self._free_at)
        self._free_at = starts_at + amount * self._seconds_each
        return starts_at - now

    def correct(self, amount: float) -> None:
        """Books ``amount`` more, or less, than was taken."""
        self._free_at += amount * self._seconds_each

    def pause(self, seconds: float) -> None:
        """Lets nothing through for that long."""
        self._free_at = max(self._free_at, self._clock() + seconds)


class Spending:
    """What has been spent, and what requests under way will spend at the most, against the budget."""

    def __init__(self, budget: Budget, answers: Answers) -> None:
        self._budget = budget
        self._answers = answers
        self._reserved: dict[str, tuple[int, int]] = {}  # key -> tokens of prompt and answer
        self._changed = asyncio.Condition()
        self.spent = ""  # which limit has ended it

    async def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether a request may be sent; waits while only requests under way stand against it.

        Once one may not, no other may: what is left would go to the cheap ones only.
        """
        async with self._changed:
            while not self.spent:
                if not self._over(prompt_tokens, completion_tokens, self._reserved):
                    self._reserved[key] = (prompt_tokens, completion_tokens)
                    return True
                if limit := self._over(prompt_tokens, completion_tokens, {}):
                    self.spent = limit
                    self._changed.notify_all()
                else:
                    await self._changed.wait()
        return False

    async def settle(self, key: str) -> None:
        """The request is over; what it cost is among the recorded answers."""
        async with self._changed:
            del self._reserved[key]
            self._changed.notify_all()

    def _over(self, prompt: int, completion: int, reserved: dict[str, tuple[int, int]]) -> str:
        """The limit that would be passed, in words; empty if none."""
        budget = self._budget
        prompt += self._answers.prompt_tokens + sum(tokens for tokens, _ in reserved.values())
        completion += self._answers.completion_tokens + sum(tokens for _, tokens in reserved.values())
        if budget.requests and self._answers.requests + len(reserved) + 1 > budget.requests:
            return f"budget.requests {budget.requests:,}"
        if budget.tokens and prompt + completion > budget.tokens:
            return f"budget.tokens {budget.tokens:,}"
        if budget.money and budget.prices and cost(budget.prices, prompt, completion) > budget.money:
            return f"budget.money {budget.money:,.10g}"
        return ""


def cost(prices: Prices, prompt_tokens: int, completion_tokens: int) -> float:
    """Money for so many tokens."""
    return (prices.prompt * prompt_tokens + prices.completion * completion_tokens) / 1e6
