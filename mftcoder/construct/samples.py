"""What the steps of the pipeline hand on: samples, and verdicts on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Message = dict[str, str]  # role and content
Format = Literal["code", "json"]


@dataclass(frozen=True)
class Sample:
    """A conversation that is on its way to the task file.

    ``parts`` holds what verification needs apart, where a generator has it: ``code``, ``tests``, ``language`` (lower
    case). ``origin`` is the provenance that only the generator knows, such as seeds, topic or axis.
    """

    messages: tuple[Message, ...]
    prompts: tuple[str, ...]  # names of the prompt templates that were used
    requests: tuple[str, ...]  # keys of the recorded answers that it was made of
    origin: Mapping[str, Any]
    group: str | None = None  # samples of one group are never divided among splits
    format: Format | None = None  # what every answer was asked to hold
    parts: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)  # what verification found out

    @property
    def answers(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "assistant"]

    @property
    def questions(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "user"]

    def proven(self, **proof: Any) -> "Sample":
        """The same sample with what verification found out."""
        return replace(self, proof={**self.proof, **proof})


class Verdict(NamedTuple):
    """What a step says of a sample: ``reason`` is what it is counted under where it is left out, else empty."""

    sample: Sample
    reason: str = ""


Stage = Callable[[Sample], Verdict]


def conversation(question: str, answer: str, system: str | None = None) -> tuple[Message, ...]:
    """The messages of one question and its answer."""
    first = [{"role": "system", "content": system}] if system else []
    return (*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer})
