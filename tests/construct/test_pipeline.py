"""The same recorded answers give the same bytes; nothing is paid for twice; everything that is left out is counted."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from random import Random

import pytest
from author import author
from construct_project import KEY, write_config
from endpoint import Reply

from mftcoder import cli
from mftcoder.construct.answers import Answers
from mftcoder.construct.asking import BUDGET_SPENT
from mftcoder.errors import MftcoderError, RunError

SELF_INSTRUCT = {"type": "self_instruct", "instructions": 12, "per_request": 4, "requests_per_round": 2}
TOPICS = {"type": "single_turn", "topics": ["python"], "max_topics": 3, "styles": ["exercise", "textbook"]}
PAIR = {"teacher": "senior engineer", "student": "beginner"}
GENERATORS = {
    "self_instruct": SELF_INSTRUCT,
    "two_agents": {"type": "two_agents", "topics": ["sql"], "max_topics": 4, "pairs": [PAIR], "min_exchanges": 1},
    "single_turn": TOPICS,
    "evolve": {"type": "evolve", "max_seeds": 6, "rounds": 2, "judge": True},
    "transform": {"type": "transform", "transforms": ["translate", "repair", "explain"], "into": ["Python", "Go"]},
}


def jittery(request):
    """The author's reply, after a while that has nothing to do with the order of the requests."""
    reply = author(request)
    reply.delay = Random(len(request.conversation)).random() / 50
    return reply


@pytest.fixture
def generator(library):
    """A function: a generator's section by its type."""

    def section(name):
        return GENERATORS[name] | ({"roots": [str(library)], "max_pieces": 4} if name == "transform" else {})

    return section


@pytest.mark.parametrize("name", GENERATORS)
def test_neither_order_nor_concurrency_nor_a_second_run_changes_a_byte(name, generator, serve, make):
    server = serve(jittery)
    one = make(generator(name), "one", endpoint={"concurrency": 1})
    many = make(generator(name), "many", endpoint={"concurrency": 7})
    assert one.records
    assert many.bytes == one.bytes
    assert many.manifest_bytes == one.manifest_bytes
    asked = len(server.requests)
    again = make(generator(name), "many", endpoint={"concurrency": 7})
    assert len(server.requests) == asked
    assert (again.bytes, again.manifest_bytes) == (many.bytes, many.manifest_bytes)
    assert max(server.answered.values()) == 2  # one for each of the folders


@pytest.mark.parametrize("name", GENERATORS)
def test_every_sample_says_where_it_comes_from_and_every_step_adds_up(name, generator, serve, make, tmp_path):
    serve(author)
    made = make(generator(name))
    answers = Answers(tmp_path / "out" / "task.answers")
    for record in made.records:
        source = record["source"]
        assert (source["generator"], source["model"]) == (name, "tiny")
        assert source["prompts"].items() <= made.manifest["prompts"].items()
        recorded = [answers.get(key) for key in source["requests"]]
        assert all(recorded)
        if name not in ("transform", "two_agents"):
            assert recorded[-1].text == record["messages"][-1]["content"]
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * (
            len(record["messages"]) // 2
        )
    for step in made.steps.values():
        assert step["found"] == step["used"] + sum(step["left_out"].values())
    assert made.steps["decontaminate"]["used"] == len(made.records) == made.manifest["samples"]
    assert made.manifest["blake2b"] == hashlib.blake2b(made.bytes, digest_size=16).hexdigest()
    assert made.manifest["costs"]["requests"] == made.steps["generate"]["used"] == answers.requests
    answers.close()


def test_a_task_that_was_made_tokenizes(serve, make, tmp_path, base_model):
    serve(author)
    make(TOPICS)
    data = {"shards": str(tmp_path / "shards"), "sequence_length": 256}
    data["tasks"] = [{"name": "task", "path": str(tmp_path / "out")}]  # the folder: it holds no other file of records
    config = {"output_dir": str(tmp_path / "run"), "model": {"path": str(base_model)}, "data": data}
    (tmp_path / "train.json").write_text(json.dumps(config))
    assert cli.main(["tokenize", str(tmp_path / "train.json")]) == 0


@pytest.mark.parametrize("name", ["self_instruct", "two_agents"])
def test_killed_at_any_request_it_goes_on_and_pays_for_nothing_twice(name, generator, serve, make, tmp_path):
    serve(author)
    whole = make(generator(name), "whole")
    kill_at, recorded_before = [], set()
    process = None

    def script(request):
        assert hashlib.sha256(json.dumps(request.body, sort_keys=True).encode()).hexdigest() not in recorded_before
        if kill_at and len(server.requests) >= kill_at[0]:
            kill_at.pop(0)
            threading.Thread(target=process.kill).start()
        return author(request)

    server = serve(script)
    at_once = 2
    path = write_config(tmp_path, generator(name), "killed", endpoint={"concurrency": at_once})
    answers = tmp_path / "killed" / "task.answers"
    rng = Random(1)
    num_recorded = 0
    for _ in range(2):
        kill_at.append(len(server.requests) + rng.randrange(5, 9))
        delivered_before = server.answered.total()
        process = subprocess.Popen(
            [sys.executable, "-m", "mftcoder", "construct", "run", str(path)], stderr=subprocess.DEVNULL
        )
        assert process.wait(120) == -signal.SIGKILL
        assert not (tmp_path / "killed" / "task.jsonl").exists()
        whole_lines = answers.read_bytes().rpartition(b"\n")[0].splitlines()
        delivered, recorded = server.answered.total() - delivered_before, len(whole_lines) - num_recorded
        assert delivered - recorded <= at_once  # no more is lost than was on its way
        num_recorded = len(whole_lines)
        recorded_before |= {
            hashlib.sha256(json.dumps(json.loads(line)["request"], sort_keys=True).encode()).hexdigest()
            for line in whole_lines
        }
    assert recorded_before
    with answers.open("ab") as file:
        file.write(b'{"key": "torn')
    assert make(generator(name), "killed").bytes == whole.bytes
    assert make(generator(name), "killed").manifest_bytes == whole.manifest_bytes


def test_the_budget_is_never_passed_and_more_of_it_goes_on(serve, make):
    def costly(request):
        reply = jittery(request)
        reply.usage = {"prompt_tokens": len(request.prompt) // 4, "completion_tokens": 40}
        return reply

    server = serve(costly)
    generator = {"type": "single_turn", "topics": ["python"], "max_topics": 3, "levels": ["all"]}
    settings = {"request": {"max_tokens": 40}}
    whole = make(generator, "whole", **settings)
    assert len(server.requests) == 3 + 3 + 6
    costs = whole.manifest["costs"]
    limit = int(0.8 * (costs["prompt_tokens"] + costs["completion_tokens"]))
    part = make(generator, "part", budget={"tokens": limit}, **settings)
    assert (part.manifest["stopped_at"], part.manifest["complete"]) == (f"budget.tokens {limit:,}", False)
    assert part.steps["generate"]["left_out"][BUDGET_SPENT] > 0
    spent = part.manifest["costs"]["prompt_tokens"] + part.manifest["costs"]["completion_tokens"]
    assert limit / 2 < spent <= limit
    asked = len(server.requests)
    assert make(generator, "part", budget={"tokens": limit}, **settings).bytes == part.bytes
    assert len(server.requests) == asked
    assert make(generator, "part", budget={"tokens": 10**6}, **settings).bytes == whole.bytes
    assert len(server.requests) == 2 * 12  # what the first part had paid for was not asked again


def test_a_budget_of_money_and_of_requests(serve, make):
    serve(author)
    prices = {"prompt": 1000.0, "completion": 2000.0}
    rich = make(TOPICS, "rich", budget={"money": 100.0, "prices": prices})
    costs = rich.manifest["costs"]
    assert costs["money"] == pytest.approx(costs["prompt_tokens"] / 1000 + costs["completion_tokens"] / 500)
    few = make(TOPICS | {"max_topics": 1, "styles": ["exercise"], "levels": ["all"]}, "few", budget={"requests": 3})
    assert few.manifest["costs"]["requests"] == 3
    with pytest.raises(RunError, match=r"budget.money 0.5 ended before a sample was there. Raise it and call again"):
        make(TOPICS, "poor", budget={"money": 0.5, "prices": prices})


def test_an_endpoint_that_is_down_ends_the_run_and_nothing_is_held_against_the_requests(serve, make):
    server = serve(lambda request: Reply(status=503))
    with pytest.raises(RunError, match=r"3 requests in a row have failed for good, the last one by status 503"):
        make(TOPICS, endpoint={"failures_in_row": 3, "retries": 0})
    server.script = author
    assert "status 503" not in make(TOPICS).steps["generate"]["left_out"]


def test_a_request_that_fails_for_good_is_left_out_until_it_is_asked_for_again(serve, make):
    unlucky = []

    def script(request):
        unlucky.extend([request.body] if not unlucky else [])
        return Reply(status=500) if request.body == unlucky[0] else author(request)

    server = serve(script)
    settings = {"endpoint": {"retries": 1, "concurrency": 1}}
    first = make(TOPICS, **settings)
    assert first.steps["generate"]["left_out"] == {"status 500": 1}
    asked = len(server.requests)
    server.script = author
    assert make(TOPICS, **settings).bytes == first.bytes
    assert len(server.requests) == asked
    healed = make(TOPICS, retry_failed=True, **settings)
    assert healed.steps["generate"]["left_out"] == {}
    assert len(healed.records) > len(first.records)


ATTACK = 'import os\nos.system("touch {marker}")\n__import__("shutil").rmtree("/")'


def test_bad_answers_are_left_out_by_their_reasons_and_attacks_stay_text(serve, make, tmp_path, capsys):
    marker = tmp_path / "was-run"
    prose = "Here is the code that you need, with some words on how it works and why. "
    block = "```python\nx = {}\n```"
    bad = {
        "cut off at max_tokens": Reply("Half an ans", finish="length"),
        "empty": Reply(""),
        "declined": Reply("", finish="content_filter"),
        "not text": Reply("nul \0 character"),
        "refusal": Reply("I'm sorry, but I can't help with that.\n\n" + block),
        "boilerplate": Reply("As an AI language model, I like this.\n\n" + block),
        "repeats itself": Reply(block + "\nand so on" * 400),
        "no code block": Reply(prose),
        "code block not closed": Reply(prose + "\n```python\nx = 1"),
        "language de": Reply("Hier ist die Lösung, die du brauchst, mit einigen Worten dazu.\n\n" + block),
        "does not parse": Reply(prose + "\n```python\ndef f(:\n```"),
        "": Reply(prose + "\n```python\n" + ATTACK.format(marker=marker) + "\n```\n<script>alert(1)</script>"),
    }
    replies = iter(bad.values())

    def script(request):
        return next(replies, Reply("")) if "Solve this in" in request.prompt else author(request)

    serve(script)
    generator = {"type": "single_turn", "topics": ["python"], "max_topics": 2, "levels": ["all"], "questions": 6}
    made = make(generator, endpoint={"concurrency": 1}, verify={"type": "parse"}, quality={"languages": ["en"]})
    reasons = {reason for step in made.steps.values() for reason in step["left_out"]}
    assert reasons == set(filter(None, bad))
    assert len(made.records) == 1
    page = tmp_path / "page.html"
    config = str(tmp_path / "out.json")
    assert cli.main(["construct", "run", config, "--html", str(page)]) == 0
    assert cli.main(["construct", "run", config, "--preview", "3"]) == 0
    shown = capsys.readouterr().out
    assert "os.system" in shown
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    assert not marker.exists()


def test_the_key_is_in_no_file_whatever_comes_back(serve, make, tmp_path):
    serve(lambda request: Reply(author(request).text + f"\n\nYour key is {request.headers['authorization']}."))
    make(SELF_INSTRUCT)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_thoughts_are_kept_in_the_record_only(serve, make, tmp_path):
    serve(lambda request: Reply(f"<think>\nhm\n</think>\n\n{author(request).text}"))
    made = make(SELF_INSTRUCT)
    assert b"think>" not in made.bytes
    assert b"<think>" in (tmp_path / "out" / "task.answers").read_bytes()


def test_repeated_and_contaminated_samples_are_left_out(serve, make, tmp_path):
    item = "Write a function that returns the longest palindromic substring of a text in time that grows by its square"
    (tmp_path / "benchmark.jsonl").write_text(json.dumps({"prompt": item}))
    seeds = [f"Explain how a compiler turns step {number} into machine code, with an example." for number in range(4)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in seeds))

    def script(request):
        if "new task alone" in request.prompt:
            return Reply(item if "step 0" in request.prompt else "Say why the sky is blue in the morning and at noon.")
        return Reply("It is so because of the way in which light is scattered by air, which differs by colour.")

    serve(script)
    made = make(
        {"type": "evolve", "seeds": str(tmp_path / "seeds.jsonl"), "rounds": 1},
        decontaminate={"benchmarks": [{"path": str(tmp_path / "benchmark.jsonl")}]},
    )
    assert made.steps["deduplicate"]["left_out"] == {"exact duplicate": 2}
    assert made.steps["decontaminate"]["left_out"] == {"by ngram": 1}
    assert [record["group"] for record in made.records] == ["seed seeds.jsonl:2"]


def test_a_line_of_the_answers_that_is_broken_is_named(serve, make, tmp_path):
    serve(author)
    make(TOPICS)
    path = tmp_path / "out" / "task.answers"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(MftcoderError, match=r"task\.answers:2: is no recorded answer"):
        make(TOPICS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(serve, make, tmp_path):
    serve(author)
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        make(TOPICS)
