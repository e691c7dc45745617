"""Two agents (CAMEL; Li et al., NeurIPS 2023): a student asks, a teacher answers, until the student's goal is reached.

::

    topic, roles  ->  goal         one request
    student  ->  question          sees the goal; ends its part with the stop sign once the goal is reached
    teacher  ->  answer            sees the conversation alone, as the model that is trained will
    … until the stop sign, the context limit, the number of exchanges, or one repeats itself

The student is the user of the sample, the teacher its assistant.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from mftcoder.construct.functions import LeftOut
from mftcoder.construct.generators.work import Work
from mftcoder.construct.novelty import rouge_l
from mftcoder.construct.samples import Message, Sample
from mftcoder.construct.seeds import Topic, drawn, read_topics
from mftcoder.construct.settings.generators import Pair, TwoAgents

STOP = "GOAL REACHED"
_SAME = 0.9  # ROUGE-L from which on a turn repeats the one before


class _Talk(NamedTuple):
    """A conversation to be had."""

    topic: Topic
    pair: Pair
    number: int


async def two_agents(settings: TwoAgents, work: Work) -> AsyncIterator[Sample]:
    """Samples of several turns: topic by topic, pair by pair."""
    topics = drawn(read_topics(settings.topics), settings.max_topics, work.rng("topics"))
    numbers = range(settings.conversations_per_topic)
    talks = [_Talk(topic, pair, number) for topic in topics for pair in settings.pairs for number in numbers]

    async def talk(one: _Talk) -> Sample:
        return await _converse(settings, work, one)

    async for sample in work.each(talk, talks, "conversations"):
        yield sample


async def _converse(settings: TwoAgents, work: Work, talk: _Talk) -> Sample:
    roles = {"teacher": talk.pair.teacher, "student": talk.pair.student}
    goal = await work.ask(work.prompts.text("goal", topic=talk.topic.text, number=talk.number, **roles), talk.number)
    student = _system(work.prompts.text("student", goal=goal.text, stop=STOP, **roles))
    teacher = _system(work.prompts.text("teacher", **roles))
    messages: list[Message] = []
    requests = [goal.key]
    end = "exchanges"
    while len(messages) < 2 * settings.max_exchanges:
        asked = await _turn(work, [student, _user(work.prompts.text("begin", **roles)), *_seen_by_student(messages)])
        if asked is None:
            end = "no question"
            break
        requests.append(asked[1])
        if STOP in asked[0]:
            end = "goal"
            break
        if len(messages) >= 2 and rouge_l(asked[0], messages[-2]["content"]) >= _SAME:
            end = "repetition"
            break
        answered = await _turn(work, [teacher, *messages, _user(asked[0])])
        if answered is None:
            end = "no answer"
            break
        messages += [_user(asked[0]), {"role": "assistant", "content": answered[0]}]
        requests.append(answered[1])
        if answered[2] > settings.max_context_tokens:
            end = "context"
            break
    if len(messages) < 2 * settings.min_exchanges:
        raise LeftOut(f"too few exchanges ({end})")
    origin = {"topic": talk.topic.id, **roles, "goal": goal.text, "end": end}
    return Sample(tuple(messages), ("goal", "student", "begin", "teacher"), tuple(requests), origin, talk.topic.id)


async def _turn(work: Work, messages: list[Message]) -> tuple[str, str, int] | None:
    """What is said, the key of the request, and the tokens so far; None where nothing usable is."""
    try:
        reply = await work.talk(messages)
    except LeftOut:
        return None
    return reply.text, reply.key, reply.prompt_tokens + reply.completion_tokens


def _seen_by_student(messages: list[Message]) -> list[Message]:
    """The conversation from the other side: the student's own words are the assistant's."""
    return [{**message, "role": "user" if message["role"] == "assistant" else "assistant"} for message in messages]


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
