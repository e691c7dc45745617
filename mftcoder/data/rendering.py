"""Conversations as text, by the chat template, with the spans of the answers and the borders of the exchanges.

An answer's span runs from where the prompt for it ends (the rendering of all earlier messages with
``add_generation_prompt``) to the end of its end-of-turn token::

    <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\n|hello<|im_end|>|\\n
                                                           |--supervised--|

A template with ``{% generation %}`` marks says itself which spans these are.

Finding them takes several renderings. So it is done once for all conversations of one shape (sequence of roles), with
placeholders as contents. Where the one rendering of a conversation is that of the placeholders with its own contents in
their places, the spans are where the contents put them; all other conversations are measured themselves.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from mftcoder.data.control import ControlTokens, control_tokens
from mftcoder.data.records import Conversation, Message
from mftcoder.errors import MftcoderError

OWN_TEMPLATE = 'Give a template in data.chat.file, or role markers with data.chat.type "markers".'
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARGIN = "\t\t"  # around a placeholder, to see whether the template strips contents


class Span(NamedTuple):
    """A stretch of characters of a rendered conversation."""

    start: int
    end: int


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    answers: list[Span]  # of the supervised answers
    borders: list[int]  # as in fitting.Encoded, but counted in characters
    restored: bool  # the text is one for ``ControlTokens.encode``


def template_messages(sample: Conversation) -> list[dict[str, Any]]:
    """The messages as a chat template takes them."""
    return [{**message.fields, "role": message.role, "content": message.content} for message in sample.messages]


class Renderer:
    """A tokenizer's chat template at work.

    With ``parse_control`` a control token that the data spell out is that token; without, it is ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, parse_control: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens_map)
        self._control = None if parse_control else control_tokens(tokenizer)

    def __call__(self, sample: Conversation) -> Rendered:
        """``sample`` as text.

        Raises MftcoderError, naming the sample's place, if there is no template, if it refuses the conversation, if
        the answers cannot be told apart in what it writes, and if what it marks as answers is something else.
        """
        renderings = self._renderings(sample)
        layouts, shape = _layouts(self._tokenizer, renderings.template), _shape(sample)
        if shape not in layouts:
            layouts[shape] = _layout(sample, renderings.template, self._special)
        layout = layouts[shape]
        if layout.fault:
            raise MftcoderError(f"{sample.where}: the chat template {layout.fault}. {OWN_TEMPLATE}")
        if layout.literals and not renderings.restored:
            placed = layout.placed(renderings.whole, sample.messages)
            if placed:
                return placed
        return renderings.measured()

    def prompt(self, sample: Conversation) -> Rendered:
        """``sample`` up to where the model's answer to its last message begins; raises as ``__call__`` does."""
        renderings = self._renderings(sample)
        return Rendered(renderings.text(add_generation_prompt=True), [], [], renderings.restored)

    def _renderings(self, sample: Conversation) -> "_Renderings":
        if not self._tokenizer.chat_template:
            raise MftcoderError(f"{sample.where}: the tokenizer has no chat template for conversations. {OWN_TEMPLATE}")
        template = self._tokenizer.get_chat_template(None, list(sample.tools) or None)
        return _Renderings(sample, template, self._special, self._control)


class _Renderings:
    """One conversation, and as many of its renderings as it takes to find the spans of its answers."""

    def __init__(
        self, sample: Conversation, template: str, special: dict[str, Any], control: ControlTokens | None
    ) -> None:
        self.template = template
        self.sample = sample
        self._special = special
        self._messages = template_messages(sample)
        self._tools = list(sample.tools) or None
        self._control = control if control and control.are_in([self._messages, self._tools]) else None
        if self._control:
            self._messages, self._tools = self._control.hide(self._messages), self._control.hide(self._tools)

    @property
    def restored(self) -> bool:
        """Whether the texts are for ``ControlTokens.encode``, as the data spell out a control token."""
        return self._control is not None

    @cached_property
    def whole(self) -> str:
        """All messages."""
        return self.text()

    def text(self, messages: list[dict] | None = None, *, add_generation_prompt: bool = False) -> str:
        """All messages, or those given."""
        text, _ = self._render(messages, add_generation_prompt=add_generation_prompt)
        return text

    def measured(self) -> Rendered:
        """The conversation with its spans and borders."""
        if _GENERATION_MARK.search(self.template):
            answers = self._marked_spans()
        else:
            answers = [self._span(index) for index, message in enumerate(self.sample.messages) if message.supervised]
        return Rendered(self.whole, answers, self._borders(), self.restored)

    def _render(self, messages: list[dict] | None = None, **options: bool) -> tuple[str, list[Span]]:
        """All messages, or those given, as text, and the spans that the template marks where an option asks for it."""
        chosen = self._messages if messages is None else messages
        try:
            (text,), marks = render_jinja_template(
                [chosen], tools=self._tools, chat_template=self.template, **self._special, **options
            )
            spans = [Span(*mark) for mark in marks[0]] if marks else []
            if self._control is None:
                return text, spans
            restore = self._control.restore
            return restore(text), [Span(*(len(restore(text[:place])) for place in span)) for span in spans]
        except Exception as error:  # a template is a program: it can fail in any way
            raise MftcoderError(f"{self.sample.where}: the chat template refuses the conversation: {error}.") from error

    def _first(self, count: int) -> str:
        """The first ``count`` messages."""
        return self.whole if count == len(self._messages) else self.text(self._messages[:count])

    def _span(self, index: int) -> Span:
        """Where the answer is that message ``index`` is."""
        prompt = self.text(self._messages[:index], add_generation_prompt=True)
        answered = self._first(index + 1)
        if not (self.whole.startswith(answered) and answered.startswith(prompt)):
            raise MftcoderError(
                f"{self.sample.where}: the chat template writes earlier turns differently once later ones follow, so "
                "its answers cannot be told apart. Mark them with {% generation %} in the template, "
                'or set "supervise": "last" for the task.'
            )
        return Span(len(prompt), len(answered.rstrip()))

    def _marked_spans(self) -> list[Span]:
        _, marks = self._render(return_assistant_tokens_mask=True)
        answers = [message for message in self.sample.messages if message.role == "assistant"]
        if len(marks) == len(answers):
            return [mark for mark, answer in zip(marks, answers, strict=True) if answer.supervised]
        if all(answer.supervised for answer in answers):
            return marks
        raise MftcoderError(
            f"{self.sample.where}: has answers that are not to be learnt, but the chat template marks {len(marks)} "
            f"spans for {len(answers)} answers. Let the template mark each answer once."
        )

    def _borders(self) -> list[int]:
        """Where the conversation may be cut: where the user speaks again after an answer."""
        roles = [message.role for message in self.sample.messages]
        later = [index for index in range(1, len(roles)) if roles[index - 1 : index + 1] == ["assistant", "user"]]
        if not later:
            return [0, len(self.whole)]
        try:
            heads = [self._first(index) for index in later]
            system = self._messages[: roles[0] == "system"]
            rest = self.text(system + self._messages[later[0] :])
        except MftcoderError:  # the template takes the conversation only whole
            return [-1, len(self.whole)]
        ends = [len(head) for head in heads if self.whole.startswith(head)]
        begins_all = len(rest) - len(self.whole) + len(heads[0])  # what both have before the second exchange
        stands_alone = begins_all >= 0 and rest == self.whole[:begins_all] + self.whole[len(heads[0]) :]
        return [begins_all if stands_alone else -1, *ends, len(self.whole)]


class _Anchor(NamedTuple):
    """A place in a rendered conversation that moves with its contents."""

    num_contents: int  # contents before it
    num_others: int  # characters before it that the template wrote

    def at(self, contents_before: list[int]) -> int:
        """The place, where ``contents_before`` [n + 1] are the summed lengths of the first 0, 1 … n contents."""
        return self.num_others + contents_before[self.num_contents]


class _Layout(NamedTuple):
    """What all conversations of one shape have in common."""

    fault: str | None = None  # of the template: what it does wrong
    literals: tuple[str, ...] = ()  # what it writes before, between and after the contents; empty if that is not known
    strips: tuple[bool, ...] = ()  # of each content: the template strips it
    answers: tuple[tuple[_Anchor, _Anchor], ...] = ()
    borders: tuple[_Anchor | None, ...] = ()  # None stands for -1

    def placed(self, text: str, messages: Sequence[Message]) -> Rendered | None:
        """The spans and borders in ``text``; None if it is not the literals with the messages' contents."""
        contents = [
            message.content.strip() if strips else message.content
            for message, strips in zip(messages, self.strips, strict=True)
        ]
        expected = [self.literals[0]]
        for content, literal in zip(contents, self.literals[1:], strict=True):
            expected += (content, literal)
        if "".join(expected) != text:
            return None
        before = [0, *accumulate(map(len, contents))]
        answers = [Span(start.at(before), end.at(before)) for start, end in self.answers]
        return Rendered(text, answers, [anchor.at(before) if anchor else -1 for anchor in self.borders], False)


@lru_cache(maxsize=4)
def _layouts(tokenizer: PreTrainedTokenizerFast, template: str) -> dict[Hashable, _Layout]:
    """Of every shape seen so far."""
    return {}


def _shape(sample: Conversation) -> Hashable:
    """Equal for conversations that a template lays out alike."""
    return bool(sample.tools), tuple((m.role, m.supervised, *sorted(m.fields)) for m in sample.messages)


def _layout(sample: Conversation, template: str, special: dict[str, Any]) -> _Layout:
    """The layout of conversations like ``sample``, found by placeholders in the place of their contents."""
    cores = [f"\ue000{index}\ue001" for index in range(len(sample.messages))]
    messages = tuple(
        replace(message, content=_MARGIN + core + _MARGIN) for message, core in zip(sample.messages, cores, strict=True)
    )
    try:
        text, answers, borders, _ = _Renderings(replace(sample, messages=messages), template, special, None).measured()
    except MftcoderError:  # of the placeholders, or of the shape: then the sample itself will meet it
        return _Layout()
    fault = _fault(text, answers, messages, cores)
    plain = not sample.tools and not any(message.fields for message in messages)
    if fault or not plain or any(text.count(core) != 1 for core in cores):
        return _Layout(fault)
    kept = [_MARGIN + core + _MARGIN in text for core in cores]
    contents = [_MARGIN + core + _MARGIN if keeps else core for core, keeps in zip(cores, kept, strict=True)]
    starts = [text.index(content) for content in contents]
    ends = [start + len(content) for start, content in zip(starts, contents, strict=True)]
    literals = tuple(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True))
    before = [0, *accumulate(map(len, contents))]

    def anchor(place: int) -> _Anchor:
        num_contents = sum(end <= place for end in ends)
        return _Anchor(num_contents, place - before[num_contents])

    layout = _Layout(
        None,
        literals,
        tuple(not keeps for keeps in kept),
        tuple((anchor(start), anchor(end)) for start, end in answers),
        tuple(None if place < 0 else anchor(place) for place in borders),
    )
    places = [*borders, *(place for span in answers for place in span)]
    inside = any(start < place < end for start, end in zip(starts, ends, strict=True) for place in places)
    return _Layout() if inside or layout.placed(text, messages) is None else layout


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
