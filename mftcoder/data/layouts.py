"""What all conversations of one shape have in common when a chat template writes them."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from mftcoder.data.plain_templates import writes_only
from mftcoder.data.records import Conversation, Message
from mftcoder.data.spans import Rendered, Renderings, Span, template_messages
from mftcoder.errors import MftcoderError

_MARGIN = "\t\t"  # around a placeholder, to see whether the template strips contents


class _Anchor(NamedTuple):
    """A place in a rendered conversation that moves with its contents."""

    num_contents: int  # contents before it
    num_others: int  # characters before it that the template wrote

    def at(self, contents_before: list[int]) -> int:
        """The place, where ``contents_before`` [n + 1] are the summed lengths of the first 0, 1 … n contents."""
        return self.num_others + contents_before[self.num_contents]


class Layout(NamedTuple):
    """What all conversations of one shape have in common."""

    fault: str | None = None  # of the template: what it does wrong
    literals: tuple[str, ...] = ()  # what it writes before, between and after the contents; empty if that is not known
    strips: tuple[bool, ...] = ()  # of each content: the template strips it
    answers: tuple[tuple[_Anchor, _Anchor], ...] = ()
    borders: tuple[_Anchor | None, ...] = ()  # None stands for -1
    is_all: bool = False  # what the template writes is always the literals with the contents between them

    def placed(self, messages: Sequence[Message]) -> Rendered:
        """The literals with the contents of ``messages``, and the spans and borders in them."""
        contents = [
            message.content.strip() if strips else message.content
            for message, strips in zip(messages, self.strips, strict=True)
        ]
        written = [self.literals[0]]
        for content, literal in zip(contents, self.literals[1:], strict=True):
            written += (content, literal)
        before = [0, *accumulate(map(len, contents))]
        answers = [Span(start.at(before), end.at(before)) for start, end in self.answers]
        return Rendered(
            "".join(written), answers, [anchor.at(before) if anchor else -1 for anchor in self.borders], False
        )


def shape_of(sample: Conversation) -> Hashable:
    """Equal for conversations that a template lays out alike."""
    return bool(sample.tools), tuple((m.role, m.supervised, *sorted(m.fields)) for m in sample.messages)


def layout_of(sample: Conversation, template: str, special: dict[str, Any]) -> Layout:
    """The layout of conversations like ``sample``, found by placeholders in the place of their contents."""
    cores = [f"\ue000{index}\ue001" for index in range(len(sample.messages))]
    messages = tuple(
        replace(message, content=_MARGIN + core + _MARGIN) for message, core in zip(sample.messages, cores, strict=True)
    )
    sample = replace(sample, messages=messages)
    try:
        text, answers, borders, _ = Renderings(sample, template, special, None).measured()
    except MftcoderError:  # of the placeholders, or of the shape: then the sample itself will meet it
        return Layout()
    fault = _fault(text, answers, messages, cores)
    plain = not sample.tools and not any(message.fields for message in messages)
    if fault or not plain or any(text.count(core) != 1 for core in cores):
        return Layout(fault)
    kept = [_MARGIN + core + _MARGIN in text for core in cores]
    contents = [_MARGIN + core + _MARGIN if keeps else core for core, keeps in zip(cores, kept, strict=True)]
    starts = [text.index(content) for content in contents]
    ends = [start + len(content) for start, content in zip(starts, contents, strict=True)]
    literals = tuple(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True))
    before = [0, *accumulate(map(len, contents))]

    def anchor(place: int) -> _Anchor:
        num_contents = sum(end <= place for end in ends)
        return _Anchor(num_contents, place - before[num_contents])

    layout = Layout(
        None,
        literals,
        tuple(not keeps for keeps in kept),
        tuple((anchor(start), anchor(end)) for start, end in answers),
        tuple(None if place < 0 else anchor(place) for place in borders),
    )
    places = [*borders, *(place for span in answers for place in span)]
    inside = any(start < place < end for start, end in zip(starts, ends, strict=True) for place in places)
    if inside or layout.placed(messages).text != text:
        return Layout()
    return layout._replace(is_all=writes_only(template, template_messages(sample), text, special))


def _fault(text: str, answers: list[Span], messages: Sequence[Message], cores: list[str]) -> str | None:
    """What is wrong with the spans of the answers, judged by where the contents lie."""
    for message, core in zip(messages, cores, strict=True):
        places = [Span(*match.span()) for match in re.finditer(core, text)]
        if message.supervised:
            whole = any(a.start <= place.start and place.end <= a.end for a in answers for place in places)
            if places and not whole:
                return "marks only a part of an answer"
        elif any(a.start < place.end and place.start < a.end for a in answers for place in places):
            return f"marks as an answer to learn what is text of the role {message.role}"
    return None
