"""One request to an OpenAI-compatible endpoint: paced, timed, bounded in size, tried again where that can help."""

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from mftcoder.construct.limits import Pace
from mftcoder.construct.settings.endpoint import EndpointSettings
from mftcoder.errors import MftcoderError, RunError

LONGEST_WAIT = 300.0  # seconds, whatever Retry-After says
LONGEST_BACKOFF = 60.0
BYTES_PER_TOKEN = 3  # where nobody has counted: few tokenizers need more tokens, whatever the script
_SHORTEST_SECRET = 8  # characters: a shorter key is a placeholder, and part of ordinary words
_REFUSED = (400, 413, 422)  # it is the request: another attempt would end the same way
_OPTIONAL = ("openai", "rapidfuzz", "py3langid")  # the client, and what judges its answers
_WRONG = {401: "api_key_env", 403: "api_key_env", 404: "base_url and endpoint.model"}


class Reply(NamedTuple):
    """An answer as it came, or the reason why there is none."""

    text: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: str = ""
    details: str = ""  # of a failure, for people


class _Again(Exception):  # noqa: N818 - an outcome
    """This attempt failed in a way that another may not."""

    def __init__(self, reason: str, details: str = "", wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.details, self.wait = reason, details, wait


def estimated_tokens(text: str) -> int:
    """A guess on the high side, where no tokenizer is at hand."""
    return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1


def model_name(settings: EndpointSettings) -> str:
    """The model that is asked. Raises MftcoderError if none is named."""
    name = settings.model or os.environ.get("OPENAI_MODEL")
    if not name:
        raise MftcoderError("endpoint.model: no model is named. Name one, or set OPENAI_MODEL.")
    return name


class Endpoint:
    """The client of one endpoint; an asynchronous context. Not to be shared between event loops."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Raises MftcoderError where the client library or the key is missing."""
        self._settings = settings
        self._key = _key(settings)
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._client = _client(settings, self._key)

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def send(self, body: Mapping[str, Any], estimate: int) -> Reply:
        """The reply to a request of about ``estimate`` tokens, answer included; a failure if all attempts fail.

        Raises MftcoderError where the key, the URL or the model is refused, RunError where the account has run dry.
        """
        async with self._slots:
            for attempt in range(self._settings.retries + 1):
                await asyncio.sleep(max(self._requests.take(1), self._tokens.take(estimate)))
                try:
                    reply = await self._attempt(body)
                except _Again as failed:
                    self._tokens.correct(-estimate)
                    last = Reply(failure=failed.reason, details=failed.details)
                    if attempt < self._settings.retries:
                        await self._wait(failed.wait, attempt)
                    continue
                used = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
                self._tokens.correct((used or estimate) - estimate)
                return reply
            return last

    async def _wait(self, asked: float | None, attempt: int) -> None:
        backoff = min(LONGEST_BACKOFF, self._settings.backoff_seconds * 2**attempt)
        if asked is None:
            await asyncio.sleep(backoff * random.uniform(0.5, 1))
        else:
            self._requests.pause(min(asked, LONGEST_WAIT))  # for all requests: the limit is the account's

    async def _attempt(self, body: Mapping[str, Any]) -> Reply:
        import openai

        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                response = await self._client.chat.completions.with_raw_response.create(**body)
                return self._reply(response.http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise _Again("timeout") from None
        except openai.APIStatusError as error:
            return self._refused(error)
        except TooLarge as error:
            raise _Again("answer too large", str(error)) from None
        except openai.OpenAIError as error:  # the connection, or a body that the library itself cannot take
            raise _Again("connection", self._shown(error.__cause__ or error)) from None

    def _reply(self, content: bytes) -> Reply:
        """The reply in the body of a response; hostile bodies are broken answers."""
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            message = choice["message"]
            text = message.get("content") or message.get("refusal") or ""
            finish = choice.get("finish_reason") or "stop"
            if not message.get("content") and message.get("refusal"):
                finish = "refusal"
            if not isinstance(text, str) or not isinstance(finish, str):
                raise TypeError("content and finish_reason must be strings")
            usage = body.get("usage")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Again("broken answer", self._shown(error)) from None
        counts = [
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        ]
        prompt, completion = (count if type(count) is int and 0 <= count < 2**40 else None for count in counts)
        return Reply(self._shown(text), self._shown(finish)[:40], prompt, completion)

    def _refused(self, error: Any) -> Reply:
        status, details = error.status_code, self._shown(error)
        if status in _WRONG:
            raise MftcoderError(f"endpoint: it answers {status} ({details[:200]}). Correct endpoint.{_WRONG[status]}.")
        if status == 429 and error.code == "insufficient_quota":
            raise RunError(f"endpoint: the account has no money left ({details[:200]}). Top it up and call again.")
        if status == 429 or status in (408, 409) or status >= 500:
            raise _Again(f"status {status}", details, _retry_after(error.response.headers))
        return Reply(failure=f"refused with status {status}", details=details)

    def _shown(self, what: object) -> str:
        """Text that came from outside, without the key: servers have been seen to echo it."""
        text = str(what)
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_SECRET else text


def _key(settings: EndpointSettings) -> str:
    if settings.api_key_env is None:
        return "none"
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise MftcoderError(
            f"endpoint.api_key_env: the environment has no {settings.api_key_env}. Set it, or say "
            '"api_key_env": null if the endpoint needs no key.'
        )
    return key


def _client(settings: EndpointSettings, key: str) -> Any:
    if missing := [name for name in _OPTIONAL if find_spec(name) is None]:
        raise MftcoderError(
            f"construct run: {', '.join(missing)} is not installed. Install what it needs: "
            "pip install 'mftcoder[construct]'."
        )
    import openai

    from mftcoder.construct.bounded import bounded_client

    base_url = settings.base_url or os.environ.get(settings.base_url_env) or "https://api.openai.com/v1"
    if not base_url.startswith(("http://", "https://")):
        source = "endpoint.base_url" if settings.base_url else f"the environment's {settings.base_url_env}"
        raise MftcoderError(f"{source}: must begin with http:// or https://, as http://127.0.0.1:8000/v1.")
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        max_retries=0,  # they are counted, paced and told here
        timeout=settings.timeout_seconds,
        http_client=bounded_client(settings.max_answer_bytes, settings.concurrency),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; None if it does not, or not in words that are known."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return seconds if 0 <= seconds < float("inf") else None


class TooLarge(Exception):  # noqa: N818 - it ends one attempt
    """The body of a response has more bytes than are allowed."""
