"""What clients of OpenAI's API send, and the shapes of what they get back."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mftcoder.data.records import parse_messages
from mftcoder.evaluation.prompts import Infilling, Prompt
from mftcoder.evaluation.sampling import Sampling

NonEmpty = Annotated[str, Field(min_length=1)]


class _Request(BaseModel):
    """Common to both kinds. Keys that are not named here, such as ``user``, change nothing about an answer, or are
    refused below."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    n: int = Field(1, ge=1, le=64)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: NonEmpty | list[NonEmpty] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    # These would change the answer, and are not offered: only their neutral values pass.
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    def sampling(self, seed: int) -> Sampling:
        """How the request wants tokens to be chosen; like OpenAI's API it draws unless temperature is 0."""
        stop = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(self.limit(), temperature, 1.0 if self.top_p is None else self.top_p, seed, stop)

    def limit(self) -> int:
        raise NotImplementedError

    def usage_is_wanted(self) -> bool:
        """At the end of a stream."""
        return bool((self.stream_options or {}).get("include_usage"))


class ChatRequest(_Request):
    """``/v1/chat/completions``."""

    ID: ClassVar = "chatcmpl"
    OBJECT: ClassVar = "chat.completion"
    CHUNK: ClassVar = "chat.completion.chunk"

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    max_completion_tokens: int | None = Field(None, ge=1)

    def prompts(self) -> list[Prompt]:
        """The conversation; MftcoderError if a message is not valid."""
        record: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            record["tools"] = self.tools
        return [parse_messages(record, "request")]

    def limit(self) -> int:
        """The most tokens of an answer: as much as the model can read, if the request does not say."""
        return self.max_completion_tokens or self.max_tokens or 2**20

    @staticmethod
    def content(text: str) -> dict[str, Any]:
        """An answer, in its choice."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    @staticmethod
    def piece(text: str | None, *, first: bool) -> dict[str, Any]:
        """A piece of an answer, in its choice."""
        delta = {} if text is None else {"content": text}
        return {"delta": {"role": "assistant", **delta} if first else delta}


class CompletionRequest(_Request):
    """``/v1/completions``; with ``suffix``, what belongs between prompt and suffix."""

    ID: ClassVar = "cmpl"
    OBJECT: ClassVar = "text_completion"
    CHUNK: ClassVar = "text_completion"

    prompt: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1, max_length=64)]
    suffix: str | None = None

    def prompts(self) -> list[Prompt]:
        """Texts, or texts with a hole."""
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [text if self.suffix is None else Infilling(text, self.suffix) for text in texts]

    def limit(self) -> int:
        """The most tokens of an answer; 16 is OpenAI's default."""
        return self.max_tokens or 16

    @staticmethod
    def content(text: str) -> dict[str, Any]:
        """An answer, in its choice."""
        return {"text": text}

    @staticmethod
    def piece(text: str | None, *, first: bool) -> dict[str, Any]:
        """A piece of an answer, in its choice."""
        return {"text": text or ""}
