"""Whatever the endpoint does, a request ends with its answer or with a reason, and the key stays here."""

import asyncio
import gzip
import sys
import time
import tracemalloc

import pytest
from construct_project import KEY
from endpoint import Reply

from mftcoder.construct.endpoint import Endpoint
from mftcoder.construct.limits import Pace
from mftcoder.construct.settings.endpoint import EndpointSettings
from mftcoder.errors import MftcoderError, RunError

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
SOON = {"backoff_seconds": 0.01, "timeout_seconds": 5.0}
MEGABYTE = b"x" * 2**20


def send(number=1, **settings):
    """The replies to ``number`` requests that are sent at once."""

    async def sent():
        async with Endpoint(EndpointSettings(**(SOON | settings))) as endpoint:
            return await asyncio.gather(*(endpoint.send({**BODY, "seed": n}, 10) for n in range(number)))

    return asyncio.run(sent())


HOSTILE = {
    "malformed JSON": Reply(raw=b'{"choices": [{'),
    "not UTF-8": Reply(raw=b"\xff\xfe\x00"),
    "no choices": Reply(raw=b'{"choices": []}'),
    "a list": Reply(raw=b"[1, 2]"),
    "a number as content": Reply(raw=b'{"choices": [{"message": {"content": 7}}]}'),
    "no message": Reply(raw=b'{"choices": [{"message": null}]}'),
    "nested too deep": Reply(raw=b"[" * 200_000),
    "an empty body": Reply(raw=b""),
    "500": Reply(status=500, raw=b"oops"),
    "503 in HTML": Reply(status=503, raw=b"<html>busy</html>"),
    "429": Reply(status=429, raw=b"{}"),
    "429 with a wait": Reply(status=429, raw=b"{}", headers={"retry-after": "0.05"}),
    "429 with nonsense": Reply(status=429, raw=b"{}", headers={"retry-after": "soon"}),
    "a connection cut": Reply("x" * 1000, reset=True),
    "slow": Reply("late", delay=2),
    "100 MB": Reply(raw=MEGABYTE, repeat=100),
    "100 MB with status 500": Reply(status=500, raw=MEGABYTE, repeat=100),
    "a bomb": Reply(raw=gzip.compress(MEGABYTE * 50), headers={"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_answer_is_asked_for_again(name, serve):
    server = serve(lambda request: HOSTILE[name] if request.attempt == 0 else Reply("fine"))
    (reply,) = send(timeout_seconds=1.0)
    assert (reply.text, reply.failure) == ("fine", "")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason", "attempts"),
    [
        (HOSTILE["malformed JSON"], "broken answer", 3),
        (HOSTILE["500"], "status 500", 3),
        (HOSTILE["a connection cut"], "connection", 3),
        (HOSTILE["100 MB"], "answer too large", 3),
        (Reply("late", delay=1), "timeout", 3),
        (Reply(status=400, raw=b'{"error": {"message": "context length"}}'), "refused with status 400", 1),
        (Reply(status=302, raw=b"", headers={"location": "http://127.0.0.1:1/"}), "refused with status 302", 1),
    ],
)
def test_what_keeps_failing_gets_a_reason(reply, reason, attempts, serve):
    server = serve(lambda request: reply)
    assert send(retries=2, timeout_seconds=0.3 if reply.delay else 5.0)[0].failure == reason
    assert len(server.requests) == attempts


def test_a_huge_answer_is_not_read_into_memory(serve):
    serve(lambda request: HOSTILE["100 MB"])
    tracemalloc.start()
    send(retries=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20


def test_usage_that_makes_no_sense_counts_as_none(serve):
    for usage in (None, "much", {"prompt_tokens": -5, "completion_tokens": "7"}, {"prompt_tokens": 10**30}):
        serve(lambda request, usage=usage: Reply("fine", usage=usage))
        (reply,) = send()
        assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


def test_no_more_requests_at_once_than_allowed(serve):
    server = serve(lambda request: Reply("fine", delay=0.02))
    send(20, concurrency=3)
    assert server.most_at_once == 3


def test_a_rate_limit_holds_back_all_requests_for_as_long_as_the_server_asks(serve):
    times = []

    def script(request):
        times.append(time.monotonic())
        first = len(times) == 1
        return Reply(status=429, raw=b"{}", headers={"retry-after": "0.5"}) if first else Reply("fine", delay=0.05)

    serve(script)
    send(3, concurrency=1)
    assert times[1] - times[0] >= 0.5


def test_a_pace_lets_through_what_a_minute_allows_and_no_more():
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    assert [pace.take(1) for _ in range(4)] == [0, 1, 2, 3]
    now = 10.0
    assert pace.take(30) == 0
    assert pace.take(1) == 30
    pace.correct(-20)  # the 30 were 10
    assert pace.take(1) == 11


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            Reply(status=401, raw=f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()),
            MftcoderError,
            "api_key_env",
        ),
        (Reply(status=404, raw=b"{}"), MftcoderError, "endpoint.model"),
        (Reply(status=429, raw=b'{"error": {"code": "insufficient_quota"}}'), RunError, "no money"),
    ],
)
def test_what_no_retry_can_mend_ends_the_run_and_does_not_show_the_key(reply, error, message, serve):
    server = serve(lambda request: reply)
    with pytest.raises(error, match=message) as caught:
        send()
    assert KEY not in str(caught.value)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert len(server.requests) == 1


def test_an_answer_that_echoes_the_key_does_not_hold_it(serve):
    serve(lambda request: Reply(f"Your header was {request.headers['authorization']}."))
    assert send()[0].text == "Your header was Bearer [key]."


def test_a_key_that_is_not_set_and_a_library_that_is_not_there_name_the_remedy(serve, monkeypatch):
    serve(lambda request: Reply("fine"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openai", None)
        with pytest.raises(MftcoderError, match=r"pip install 'mftcoder\[construct\]'"):
            send()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MftcoderError, match="the environment has no OPENAI_API_KEY"):
        send()
    assert send(api_key_env=None)[0].text == "fine"
