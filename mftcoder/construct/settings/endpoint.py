"""Sections ``endpoint``, ``request`` and ``budget``: which model is asked, how, and how much that may cost."""

from typing import Annotated, Any, Literal

from pydantic import Field

from mftcoder.config.schema import NonEmpty, PositiveFloat, PositiveInt, Section

Price = Annotated[float, Field(ge=0)]


class EndpointSettings(Section):
    """An endpoint that speaks OpenAI's chat completions, and how hard it may be asked."""

    base_url: NonEmpty | None = Field(None, description="Such as http://127.0.0.1:8000/v1; default: see base_url_env.")
    base_url_env: NonEmpty = Field(
        "OPENAI_BASE_URL", description="Environment variable that holds the URL; if it is not set, OpenAI's."
    )
    api_key_env: NonEmpty | None = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; `null`: none is needed. The key is written nowhere.",
    )
    model: NonEmpty | None = Field(None, description="Name of the model; default: what OPENAI_MODEL holds.")
    concurrency: PositiveInt = Field(8, description="Requests at the same time. The result does not depend on it.")
    timeout_seconds: PositiveFloat = Field(120.0, description="Of one attempt, from its start to the whole answer.")
    retries: Annotated[int, Field(ge=0)] = Field(
        5, description="Attempts after the first, at rate limits, server errors, broken answers and connections."
    )
    backoff_seconds: PositiveFloat = Field(
        1.0, description="Wait before the first retry; it doubles up to a minute. Retry-After of the server goes first."
    )
    failures_in_row: PositiveInt = Field(
        10, description="So many requests in a row that fail for good, and the run ends: the endpoint is down."
    )
    requests_per_minute: PositiveFloat | None = Field(None, description="Default: no limit.")
    tokens_per_minute: PositiveFloat | None = Field(
        None, description="Of prompts and answers, estimated until an answer tells its own; default: no limit."
    )
    max_answer_bytes: PositiveInt = Field(4 * 2**20, description="A longer answer is broken off, and tried again.")


class Request(Section):
    """What goes with every request. Another value is another request: recorded answers are not used for it."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(0.7, description="`null`: the endpoint's default.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="`null`: the endpoint's default.")
    max_tokens: PositiveInt = Field(2048, description="Of an answer; one that is cut off there is not used.")
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="How the endpoint calls that limit."
    )
    system: NonEmpty | None = Field(None, description="System message of requests that have none of their own.")
    extra: dict[str, Any] = Field({}, description="More keys of the request, passed on as they are.")


class Prices(Section):
    """Money per million tokens, in any currency."""

    prompt: Price = Field(description="Per million tokens of prompts.")
    completion: Price = Field(description="Per million tokens of answers.")


class Budget(Section):
    """When to stop. What the recorded answers of this task have cost counts, whichever run paid for them."""

    requests: PositiveInt | None = Field(None, description="Answers; default: no limit.")
    tokens: PositiveInt | None = Field(None, description="Of prompts and answers; default: no limit.")
    money: PositiveFloat | None = Field(None, description="In the currency of `prices`; default: no limit.")
    prices: Prices | None = Field(None, description="Needed for `money`; with them the cost is in the table.")
