"""``mftcoder generate --held-out`` against the records themselves and against prompting with them."""

import json

import pytest
from transformers import AutoTokenizer

from mftcoder import cli
from mftcoder.data.records import Conversation, Message
from mftcoder.evaluation.generation import Sampling, generate

QUESTIONS = {f"{n} + {n}?": f"It is {2 * n}." for n in range(40)}


@pytest.fixture
def project(base_model, tmp_path):
    """A base model and shards of two tasks, of which half the samples are held out."""
    (tmp_path / "chat.jsonl").write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in QUESTIONS.items())
    )
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"def f{n}(): ..."}) + "\n" for n in range(40)))
    config = {
        "output_dir": str(tmp_path / "run"),
        "model": {"path": str(base_model)},
        "data": {
            "shards": str(tmp_path / "shards"),
            "sequence_length": 64,
            "validation_fraction": 0.5,
            "tasks": [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in ("chat", "text")],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert cli.main(["tokenize", str(tmp_path / "config.json")]) == 0
    return tmp_path


def held_out(base_model, project, *options):
    to = project / "generations.jsonl"
    command = ["generate", str(base_model), "--held-out", str(project / "shards"), "--max-new-tokens", "8"]
    assert cli.main([*command, "--to", str(to), *options]) == 0
    return [json.loads(line) for line in to.read_text().splitlines()]


def test_prompt_and_reference_are_a_record_and_the_answer_is_the_models(base_model, project):
    lines = held_out(base_model, project, "--task", "chat", "--per-task", "7")
    assert len(lines) == len({line["prompt"] for line in lines}) == 7
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    asked = {
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, tokenize=False): q
        for q in QUESTIONS
    }
    assert [line["reference"] for line in lines] == [QUESTIONS[asked[line["prompt"]]] for line in lines]
    prompts = [Conversation((Message("user", asked[line["prompt"]], False),)) for line in lines]
    expected = [answer["generated"] for answer in generate(str(base_model), prompts, Sampling(max_new_tokens=8))]
    assert [line["generated"] for line in lines] == expected
    assert any(expected)


def test_every_task_gives_as_many_as_were_asked_for_and_none_is_trained_on(base_model, project, capsys):
    lines = held_out(base_model, project, "--per-task", "3")
    assert [line["task"] for line in lines] == ["chat"] * 3 + ["text"] * 3
    capsys.readouterr()
    assert cli.main(["inspect", str(project / "shards"), "--limit", "99", "--json"]) == 0
    trained = capsys.readouterr().out
    assert sum(answer in trained for answer in QUESTIONS.values()) == 20
    assert not any(line["reference"] in trained for line in lines if line["task"] == "chat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held-out", "{shards}", "--raw"], "--raw: held-out samples"),
        (["--prompt", "a", "--task", "chat"], "--task chat: only held-out samples"),
        (["--held-out", "{shards}", "--task", "song"], 'no task "song"; they hold chat, text'),
    ],
)
def test_contradictions_are_named(arguments, message, base_model, project, capsys):
    given = [argument.format(shards=project / "shards") for argument in arguments]
    assert cli.main(["generate", str(base_model), *given]) == 2
    assert message in capsys.readouterr().err
