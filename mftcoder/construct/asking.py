"""Asking: recorded answers first, then the endpoint within the budget; and many things at once, in order."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from mftcoder.construct.answers import Answer, Answers, key_of
from mftcoder.construct.endpoint import Endpoint, Reply, estimated_tokens, model_name
from mftcoder.construct.functions import LeftOut
from mftcoder.construct.limits import Spending, cost
from mftcoder.construct.output import Tally
from mftcoder.construct.samples import Message
from mftcoder.construct.settings import ConstructConfig
from mftcoder.errors import RunError

Item = TypeVar("Item")
Made = TypeVar("Made")

BUDGET_SPENT = "budget spent"
_THOUGHTS = re.compile(r"\A\s*<think>.*?(</think>\s*|\Z)", re.DOTALL)
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # neither files nor tokenizers take these


class Asker:
    """Answers to requests. What it gives depends on the requests and the recorded answers alone."""

    def __init__(self, config: ConstructConfig, answers: Answers, endpoint: Endpoint, tally: Tally) -> None:
        self._config = config
        self._model = model_name(config.endpoint)
        self._answers = answers
        self._endpoint = endpoint
        self._tally = tally
        self._spending = Spending(config.budget, answers)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._unproven: list[tuple[Answer, dict[str, Any]]] = []  # failures since the last answer
        self._used: set[str] = set()
        self._requests = self._prompt_tokens = self._completion_tokens = self._guessed = 0
        self.asked = 0  # requests that this run sent

    @property
    def spent(self) -> str:
        """The limit of the budget that has been reached; empty if none."""
        return self._spending.spent

    async def ask(self, messages: Sequence[Message], draw: int = 0) -> Answer:
        """A usable answer, without thoughts in ``<think>``; ``draw`` numbers repetitions of the same request.

        Raises LeftOut with the reason if there is none, RunError where the endpoint is down.
        """
        body = self._body(messages)
        key = key_of(body, draw)
        answer = self._answers.get(key)
        if answer is None:
            if key not in self._under_way:
                sending = self._under_way[key] = asyncio.create_task(self._send(key, body))
                sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio complains
            answer = await asyncio.shield(self._under_way[key])
        reason = answer.failure or _unusable(answer)
        if key not in self._used:
            self._used.add(key)
            self._count(answer, reason)
        if reason:
            raise LeftOut(reason)
        return answer._replace(text=without_thoughts(answer.text))

    def costs(self) -> dict[str, Any]:
        """What the answers that were used have cost, whichever run paid."""
        counts: dict[str, Any] = {
            "requests": self._requests,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "requests_with_estimated_tokens": self._guessed,
        }
        if prices := self._config.budget.prices:
            counts["money"] = round(cost(prices, self._prompt_tokens, self._completion_tokens), 6)
        return counts

    def record_failures(self) -> None:
        """Records the failures since the last answer: the endpoint was up, so they are the requests' own."""
        for answer, body in self._unproven:
            self._answers.add(answer, body)
        self._unproven.clear()

    def _count(self, answer: Answer, reason: str) -> None:
        if reason:
            self._tally.left_out[reason] += 1
        else:
            self._tally.used += 1
        if not answer.failure:
            self._requests += 1
            self._prompt_tokens += answer.prompt_tokens
            self._completion_tokens += answer.completion_tokens
            self._guessed += not answer.counted

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        request = self._config.request
        if request.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": request.system}, *messages]
        sampling = {"temperature": request.temperature, "top_p": request.top_p}
        return {
            "model": self._model,
            "messages": list(messages),
            request.max_tokens_key: request.max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
            **({"extra_body": request.extra} if request.extra else {}),
        }

    async def _send(self, key: str, body: dict[str, Any]) -> Answer:
        prompt_tokens = estimated_tokens("".join(message["content"] for message in body["messages"]))
        estimate = prompt_tokens + self._config.request.max_tokens
        try:
            if not await self._spending.reserve(key, prompt_tokens, self._config.request.max_tokens):
                return _failed(key, BUDGET_SPENT)
            try:
                self.asked += 1
                reply = await self._endpoint.send(body, estimate)
                answer = _failed(key, reply.failure) if reply.failure else _answered(key, reply, prompt_tokens)
                self._record(answer, body, reply.details)
            finally:
                await self._spending.settle(key)
        finally:
            del self._under_way[key]
        return answer

    def _record(self, answer: Answer, body: dict[str, Any], details: str) -> None:
        """Records an answer. Failures wait for one: if none comes, it is the endpoint that is down."""
        if not answer.failure:
            self.record_failures()
            self._answers.add(answer, body)
            return
        self._unproven.append((answer, body))
        if len(self._unproven) >= self._config.endpoint.failures_in_row:
            raise RunError(
                f"endpoint: {len(self._unproven)} requests in a row have failed for good, the last one by "
                f"{answer.failure}{f' ({details[:300]})' if details else ''}. What was answered is kept: see to the "
                "endpoint and call again."
            )


def without_thoughts(text: str) -> str:
    """``text`` without what a reasoning model thought in ``<think>`` first, and without white space around."""
    return _THOUGHTS.sub("", text, count=1).strip()


def _failed(key: str, why: str) -> Answer:
    return Answer(key, "", "", 0, 0, True, why)


def _answered(key: str, reply: Reply, prompt_tokens: int) -> Answer:
    """``prompt_tokens``: an estimate, for endpoints that do not count."""
    counted = reply.prompt_tokens is not None and reply.completion_tokens is not None
    prompt = prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    completion = estimated_tokens(reply.text) if reply.completion_tokens is None else reply.completion_tokens
    return Answer(key, reply.text, reply.finish, prompt, completion, counted)


def _unusable(answer: Answer) -> str:
    if answer.finish == "length":
        return "cut off at max_tokens"
    if answer.finish in ("content_filter", "refusal"):
        return "declined"
    if not without_thoughts(answer.text):
        return "empty"
    return "not text" if _NOT_TEXT.search(answer.text) else ""


async def in_order(
    make: Callable[[Item], Awaitable[Made]], items: Iterable[Item], at_once: int
) -> AsyncIterator[Made | LeftOut]:
    """What ``make`` gives for each item, or the LeftOut that it raised, in the order of the items; ``at_once`` run."""

    async def one(item: Item) -> Made | LeftOut:
        try:
            return await make(item)
        except LeftOut as reason:
            return reason

    pending: deque[asyncio.Task[Made | LeftOut]] = deque()
    try:
        for item in items:
            pending.append(asyncio.create_task(one(item)))
            if len(pending) >= at_once:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
