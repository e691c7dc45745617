"""The renderings of one conversation, and the spans and borders that they show."""

import re
from functools import cached_property
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from mftcoder.data.control import ControlTokens
from mftcoder.data.records import Conversation
from mftcoder.errors import MftcoderError

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


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


class Renderings:
    """One conversation, and as many of its renderings as it takes to find the spans of its answers."""

    def __init__(
        self, sample: Conversation, template: str, special: dict[str, Any], control: ControlTokens | None
    ) -> None:
        self.template = template
        self.sample = sample
        self._special = special
        self._messages = template_messages(sample)
        self._tools = list(sample.tools) or None
        # Roles and keys are the program's own words.
        texts = [
            *(message.content for message in sample.messages),
            *(dict(m.fields) for m in sample.messages if m.fields),
        ]
        self._control = control if control and control.are_in([*texts, self._tools]) else None
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
