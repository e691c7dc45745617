"""Generation against the model's own logits: alone, in batches, drawn, stopped, told piece by piece, into a hole."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mftcoder import cli
from mftcoder.config.schema import Fim
from mftcoder.data.fim import cut, infilling_ids, rearranged, sentinel_ids
from mftcoder.data.records import Text
from mftcoder.evaluation.answering import Question, answer_all, answer_aloud
from mftcoder.evaluation.prompts import Infilling, prompt_ids, question, stops_of
from mftcoder.evaluation.sampling import Draw, Sampling, choice, settled

WORDS = "two plus three is five, they said."
PROMPTS = [question(WORDS[:length], "a test") for length in (1, 34, 7, 20, 7, 12)]
FIM = Fim(rate=1, spm_rate=0, sentinels=["<|pad|>", "<|endoftext|>", "<|im_start|>"])


@pytest.fixture(scope="module")
def loaded(base_model):
    return AutoModelForCausalLM.from_pretrained(base_model).eval(), AutoTokenizer.from_pretrained(base_model)


def questions(tokenizer, prompts=PROMPTS):
    return [
        Question(prompt_ids(tokenizer, prompt), stops_of(tokenizer, prompt), Draw(number))
        for number, prompt in enumerate(prompts)
    ]


def likeliest(model, tokenizer, ids, stops, count):
    """The greedy answer, from whole forward passes without a cache."""
    ids, start = list(ids), len(ids)
    for _ in range(count):
        token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True), len(ids) - start


def test_answers_are_the_likeliest_tokens_in_any_batch(loaded):
    model, tokenizer = loaded
    asked = questions(tokenizer)
    expected = [likeliest(model, tokenizer, one.ids, one.stops, 24) for one in asked]
    assert len(set(expected)) > 3
    for batch_size in (1, 4, 6):
        answers = answer_all(model, tokenizer, asked, Sampling(24), batch_size=batch_size)
        assert [(answer.text, answer.num_tokens) for answer in answers] == expected
        assert [answer.finish for answer in answers] == ["length" if n == 24 else "stop" for _, n in expected]


def test_what_is_drawn_depends_on_seed_prompt_and_sample_alone(loaded):
    model, tokenizer = loaded
    asked = questions(tokenizer)
    sampling = Sampling(12, temperature=1.5, top_p=0.9, seed=3)
    together = answer_all(model, tokenizer, asked, sampling, batch_size=8)
    assert answer_all(model, tokenizer, asked[::-1], sampling, batch_size=2)[::-1] == together
    assert [answer_aloud(model, tokenizer, one, sampling, str) for one in asked] == together
    others = [one._replace(draw=Draw(one.draw.prompt, 1)) for one in asked]
    assert answer_all(model, tokenizer, others, sampling, batch_size=8) != together
    assert answer_all(model, tokenizer, asked, Sampling(12, 1.5, 0.9, seed=4), batch_size=8) != together


def test_draws_follow_the_softmax_of_the_nucleus():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    number = 4000
    processors = choice(Sampling(temperature=2.0, top_p=0.8), [Draw(n) for n in range(number)])
    rows = logits.repeat(number, 1)
    drawn = Counter(processors(torch.zeros(number, 1, dtype=torch.long), rows).argmax(1).tolist())
    share = (logits / 2).softmax(0)
    kept = share[:3] / share[:3].sum()  # 0.43 + 0.26 < 0.8 <= 0.43 + 0.26 + 0.16
    assert set(drawn) == {0, 1, 2}
    # Three standard deviations of a share of 4000 draws are at most 0.024.
    np.testing.assert_allclose([drawn[n] / number for n in range(3)], kept, atol=0.024)


@pytest.mark.parametrize("start", [2, 5, 9])
def test_an_answer_ends_before_a_stop_text_also_while_it_is_told(loaded, start):
    model, tokenizer = loaded
    asked = questions(tokenizer)
    whole = answer_all(model, tokenizer, asked[:1], Sampling(24), batch_size=1)[0].text
    stop = whole[start : start + 3]
    expected = whole[: whole.index(stop)]
    sampling = Sampling(24, stop=("never written", stop))
    for one in answer_all(model, tokenizer, asked, sampling, batch_size=6):
        assert stop not in one.text
    pieces: list[str] = []
    answer = answer_aloud(model, tokenizer, asked[0], sampling, pieces.append)
    assert (answer.text, answer.finish, answer.stopped_at) == (expected, "stop", stop)
    assert "".join(pieces) == expected
    assert answer.num_tokens < 24


def test_told_pieces_are_the_answer(loaded):
    model, tokenizer = loaded
    for one in questions(tokenizer):
        pieces: list[str] = []
        answer = answer_aloud(model, tokenizer, one, Sampling(24), pieces.append)
        assert "".join(pieces) == answer.text
        assert len(pieces) > 3


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abc", (), "abc"),
        ("ab\ufffd", (), "ab"),
        ("ab\n", ("\n\n",), "ab"),
        ("ab\n\ncd", ("\n\n",), "ab"),
        ("xENx", ("END",), "xENx"),
        ("xE", ("END", "xEN"), ""),
    ],
)
def test_what_a_further_token_can_take_back_is_not_settled(text, stop, expected):
    assert settled(text, stop) == expected


def test_a_hole_is_asked_for_as_training_showed_it(loaded):
    _, tokenizer = loaded
    document = "def add(a, b):\n    return a + b <|im_end|>\n"
    parts = cut(document, FIM, 5)
    trained = rearranged(
        [Text(document, where="x")], FIM, tokenizer, seed=5, sequence_length=99, parse_control=False, noted=Counter()
    )[0].input_ids
    asked = infilling_ids(parts.prefix, parts.suffix, sentinel_ids(FIM, tokenizer), tokenizer)
    assert trained[: len(asked)].tolist() == asked.tolist()
    assert tokenizer.decode(trained[len(asked) : -1]) == parts.middle
    hole = Infilling(parts.prefix, parts.suffix, tuple(FIM.sentinels))
    assert prompt_ids(tokenizer, hole).tolist() == asked.tolist()
    assert set(sentinel_ids(FIM, tokenizer)) < set(stops_of(tokenizer, hole))


def test_a_model_is_never_asked_for_more_than_it_can_read(loaded):
    model, tokenizer = loaded  # of 128 positions
    asked = questions(tokenizer, ["a" * length for length in (120, 60, 3)])
    answers = answer_all(model, tokenizer, asked, Sampling(100), batch_size=3)
    for one, answer in zip(asked, answers, strict=True):
        room = min(100, 128 - len(one.ids))
        assert (answer.text, answer.num_tokens) == likeliest(model, tokenizer, one.ids, one.stops, room)


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_file_of_prompts_gets_its_answers_in_order(base_model, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    records = [
        {"prompt": "two"},
        {"messages": [{"role": "user", "content": "two"}]},
        {"prefix": "def add(a", "suffix": "return a"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ("--max-new-tokens", 6, "--sentinels", *FIM.sentinels)
    code, out, _ = run(capsys, "generate", base_model, "--prompts", path, "--json", *options)
    asked, same, hole = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert asked["generated"] == same["generated"]
    assert asked["prompt"] == records[1]["messages"]
    assert hole["prompt"] == records[2]
    (tmp_path / "half.py").write_text("def add(a<FILL_ME>return a")
    assert (
        run(capsys, "generate", base_model, "--infill", tmp_path / "half.py", *options)[1] == hole["generated"] + "\n"
    )
    streamed = run(
        capsys, "generate", base_model, "--prefix", "def add(a", "--suffix", "return a", "--stream", *options
    )
    assert streamed[1] == hole["generated"] + "\n"


def test_several_samples_are_counted_and_differ(base_model, capsys):
    code, out, _ = run(
        capsys, "generate", base_model, "--prompt", "a", "--samples", 3, "--temperature", 2, "--json",
        "--max-new-tokens", 9,
    )  # fmt: skip
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [answer["sample"] for answer in answers] == [0, 1, 2]
    assert len({answer["generated"] for answer in answers}) == 3


def test_a_chat_answers_with_all_that_was_said_in_view(base_model, loaded, capsys, monkeypatch):
    model, tokenizer = loaded
    monkeypatch.setattr("sys.stdin", io.StringIO("two\n\nthree\n/reset\nthree\n/exit\nfour\n"))
    code, out, _ = run(capsys, "chat", base_model, "--max-new-tokens", 5, "--system", "add")
    assert code == 0
    said, expected = [{"role": "system", "content": "add"}], ""
    for line in ("two", "three", None, "three"):
        if line is None:
            said = said[:1]
            continue
        said.append({"role": "user", "content": line})
        ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        answer, _ = likeliest(model, tokenizer, ids, [tokenizer.eos_token_id], 5)
        said.append({"role": "assistant", "content": answer})
        expected += answer + "\n"
    assert out == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--samples", "2"], "--samples: all would be the same"),
        (["--prompt", "a", "--suffix", "b"], "--suffix: it follows a --prefix"),
        (["--prompt", "a", "--stop", ""], "--stop: is empty"),
        (["--prompt", "a", "--raw", "--system", "b"], "--system: "),
        (["--prefix", "a"], "Name the model's own with --sentinels"),
        (["--infill", "{file}"], "must hold <FILL_ME> once, where the model is to write; found 0"),
        (["--prompts", "{file}"], 'it.jsonl:1: must have "messages"'),
        (["--prompt", "a" * 200], "but the model reads 128 at most"),
    ],
)
def test_what_cannot_be_asked_is_explained(arguments, message, base_model, tmp_path, capsys):
    path = tmp_path / "it.jsonl"
    path.write_text('{"question": 1}\n')
    code, _, error = run(capsys, "generate", base_model, *(argument.format(file=path) for argument in arguments))
    assert (code, message in error) == (2, True), error
