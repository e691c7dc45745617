"""``mftcoder serve`` through the official client, against what ``mftcoder generate`` says of the same model."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tiny import CHATML, tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mftcoder import cli
from mftcoder.data.records import Conversation, Message
from mftcoder.evaluation.generation import generate
from mftcoder.evaluation.sampling import Sampling

HI = [{"role": "user", "content": "two plus <|im_end|> three"}]
PROMPT = Conversation((Message("user", HI[0]["content"], False),))


def start(model: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The server's process and its base URL, once it listens."""
    command = [sys.executable, "-m", "mftcoder", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("serving "):
            return process, line.split()[-1]
    raise AssertionError(f"it ended with {process.wait()}")


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.fixture(scope="module")
def url(base_model) -> Iterator[str]:
    process, url = start(base_model, "--name", "tiny")
    yield url
    stop(process)


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


def ask(client, **options):
    return client.chat.completions.create(
        **({"model": "tiny", "messages": HI, "temperature": 0, "max_tokens": 20} | options)
    )


@pytest.fixture(scope="module")
def expected(base_model):
    (answer,) = generate(str(base_model), [PROMPT], Sampling(20))
    return answer["generated"]


def test_a_chat_is_what_generate_says_whole_and_streamed(client, expected):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    answer = ask(client)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (expected, "length")
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == answer.usage
    told = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(one.delta.content or "" for one in told) == expected
    assert [one.finish_reason for one in told] == [None] * (len(told) - 1) + ["length"]
    assert len(told) > 5


def test_stop_texts_end_an_answer_and_are_no_part_of_it(client, expected):
    text = expected[4:7]
    before = expected[: expected.index(text)]
    for given in (text, ["never written", text]):
        choice = ask(client, stop=given).choices[0]
        assert (choice.message.content, choice.finish_reason) == (before, "stop")
    streamed = [chunk.choices[0] for chunk in ask(client, stop=text, stream=True)]
    assert "".join(one.delta.content or "" for one in streamed) == before
    assert streamed[-1].finish_reason == "stop"


def test_draws_are_repeated_by_their_seed_and_n_gives_several(client):
    first, again, other = (
        [choice.message.content for choice in ask(client, temperature=1.5, n=3, seed=seed).choices]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) == 3
    streamed = {0: "", 1: "", 2: ""}
    for chunk in ask(client, temperature=1.5, n=3, seed=1, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == first
    assert ask(client, temperature=None).choices != ask(client, temperature=None).choices


def test_completions_go_on_with_text(client, base_model):
    texts = ["two plus", "def add"]
    answers = client.completions.create(model="tiny", prompt=texts, max_tokens=7, temperature=0)
    expected = generate(str(base_model), texts, Sampling(7))
    assert [choice.text for choice in answers.choices] == [one["generated"] for one in expected]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "other"}, openai.NotFoundError, "there is no model other"),
        ({"messages": []}, openai.BadRequestError, "messages: "),
        ({"messages": [{"role": "moderator", "content": ""}]}, openai.BadRequestError, "messages[0].role must be"),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, openai.BadRequestError, "reads 128 at most"),
        ({"messages": [{"role": "user", "content": "a" * 200}], "stream": True}, openai.BadRequestError, "at most"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens: "),
        ({"temperature": -1}, openai.BadRequestError, "temperature: "),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty: "),
    ],
)
def test_a_wrong_request_is_the_clients_fault(client, options, error, message):
    with pytest.raises(error) as raised:
        ask(client, **options)
    assert message in raised.value.body["message"]


def test_what_is_no_json_is_refused_and_health_is_told(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health") as answer:
        assert json.load(answer) == {"status": "ok"}
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", b"{", method="POST"))
    assert raised.value.code == 400


def test_a_client_that_goes_away_frees_the_model(client, expected):
    endless = ask(client, stream=True, max_tokens=100, temperature=2)
    next(iter(endless))
    endless.close()
    assert ask(client).choices[0].message.content == expected


def test_a_port_that_is_taken_and_a_missing_package_are_explained(url, base_model, capsys, monkeypatch):
    port = url.split(":")[2].split("/")[0]
    assert cli.main(["serve", str(base_model), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    monkeypatch.setattr("mftcoder.evaluation.server.find_spec", lambda name: None)
    assert cli.main(["serve", str(base_model)]) == 2
    assert "pip install 'mftcoder[serve]'" in capsys.readouterr().err


def of_printable_text() -> PreTrainedTokenizerFast:
    """A tokenizer of which any tokens make text; bytes beyond ASCII would not."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [one for one in pre_tokenizers.ByteLevel.alphabet() if one.isascii() or one in "ĠĊ"]
    trainer = trainers.BpeTrainer(
        special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet, vocab_size=120, show_progress=False
    )
    tokenizer.train_from_iterator(["def add"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return fast


@pytest.mark.long
def test_construct_asks_a_served_model(tmp_path, monkeypatch):
    """Quality is not the point: what a random model answers goes through every step, and the table tells of it."""
    tokenizer = of_printable_text()
    tiny_llama(max_position_embeddings=8192, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    functions = [f"def add_{n}(a):\n    return a + {n}\n" for n in range(4)]
    (tmp_path / "code.jsonl").write_text(
        "".join(json.dumps({"code": code, "language": "Python"}) + "\n" for code in functions)
    )
    config = {
        "out": str(tmp_path / "made"),
        "task": "explained",
        "generator": {"type": "transform", "transforms": ["explain"], "snippets": str(tmp_path / "code.jsonl")},
        "request": {"temperature": 1.0, "max_tokens": 2000},
        "quality": {"answer_format": False, "max_repetition": None},
        "deduplicate": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    process, url = start(tmp_path / "model", "--name", "tiny")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    try:
        assert cli.main(["construct", "run", str(tmp_path / "config.json")]) == 0
    finally:
        stop(process)
    samples = [json.loads(line) for line in (tmp_path / "made" / "explained.jsonl").read_text().splitlines()]
    assert samples
    assert {code.strip() in sample["messages"][0]["content"] for sample in samples for code in functions} == {
        True,
        False,
    }
