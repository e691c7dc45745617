"""Single turn with topics (Code Exercises, Textbook): a brief from the topic, questions from the brief, solutions.

::

    topic, style, level  ->  brief        what good questions on it go into, refined by the model itself
    brief                ->  questions    a numbered list
    question             ->  solution
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from mftcoder.construct.functions import LeftOut
from mftcoder.construct.generators.work import Work
from mftcoder.construct.parsing import canonical, code_in, numbered
from mftcoder.construct.samples import Sample, conversation
from mftcoder.construct.seeds import Topic, drawn, read_topics
from mftcoder.construct.settings.generators import SingleTurn


class _Cell(NamedTuple):
    """What a brief is about."""

    topic: Topic
    style: str
    level: str


class _Question(NamedTuple):
    text: str
    cell: _Cell
    requests: tuple[str, ...]


async def single_turn(settings: SingleTurn, work: Work) -> AsyncIterator[Sample]:
    """Samples of one question and its solution: topic by topic, style by style, level by level."""
    subjects = drawn(read_topics(settings.topics), settings.max_topics, work.rng("topics"))
    cells = [_Cell(topic, style, level) for topic in subjects for style in settings.styles for level in settings.levels]

    async def solve(question: _Question) -> Sample:
        style = question.cell.style
        reply = await work.ask(
            work.prompts.text(f"{style}-solution", question=question.text, language=settings.language)
        )
        parts = {}
        if style == "exercise":
            parts = {"code": code_in(reply.text, settings.language), "language": canonical(settings.language)}
        return Sample(
            conversation(question.text, reply.text),
            tuple(f"{style}-{name}" for name in ("brief", "questions", "solution")),
            (*question.requests, reply.key),
            {"topic": question.cell.topic.id, "style": style, "level": question.cell.level},
            question.cell.topic.id,
            "code" if style == "exercise" else None,
            parts,
        )

    async def solved(cell: _Cell) -> list[Sample | LeftOut]:
        made: list[Sample | LeftOut] = []
        for question in await _questions(settings, work, cell):
            try:
                made.append(await solve(question))
            except LeftOut as reason:
                made.append(reason)
        return made

    async for samples in work.each(solved, cells):
        for sample in samples:
            if isinstance(sample, LeftOut):
                work.step("solutions").left_out[str(sample)] += 1
            else:
                work.step("solutions").used += 1
                yield sample


async def _questions(settings: SingleTurn, work: Work, cell: _Cell) -> list[_Question]:
    asked = {"language": settings.language, "level": cell.level, "number": settings.questions}
    brief = await work.ask(work.prompts.text(f"{cell.style}-brief", topic=cell.topic.text, **asked))
    listed = await work.ask(
        work.prompts.text(f"{cell.style}-questions", topic=cell.topic.text, brief=brief.text, **asked)
    )
    step = work.step("questions")
    found = numbered(listed.text)[: settings.questions]
    step.used += len(found)
    if missing := settings.questions - len(found):
        step.left_out["fewer than asked for"] += missing
    return [_Question(text, cell, (brief.key, listed.key)) for text in found]
