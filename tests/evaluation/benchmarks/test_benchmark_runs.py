"""`evaluate --benchmark`: known answers give known scores, harm is contained, a killed run goes on."""

import json

import pytest

from mftcoder import cli
from mftcoder.evaluation.benchmarks import attempts, run
from mftcoder.evaluation.benchmarks.writing import Written

NAMES = ("add", "sub", "mul", "neg")
BODIES = ("    return a + b\n", "    return a - b\n", "    return a * b\n", "    return -a\n")
WRONG = "    return None\n"


def problem(number, language="python"):
    name, expected = NAMES[number], (7, 3, 10, -5)[number]
    return {
        "task_id": f"Test/{number}",
        "prompt": f"def {name}(a, b=0):\n",
        "entry_point": name,
        "canonical_solution": BODIES[number],
        "test": f"def check(candidate):\n    assert candidate(5, 2) == {expected}\n",
        "language": language,
    }


PROBLEMS = [problem(number) for number in range(4)]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "small.jsonl", PROBLEMS)


@pytest.fixture
def writes(monkeypatch):
    """Makes what models write known: ``answer(problem, sample, model)``; gives the list of what they were asked."""

    def make(answer, batches=99):
        asked = []

        class Known:
            has_chat_template = False

            def __init__(self, model):
                self.model = model

            def write(self, wanted, sampling, *, chat, batch_size):
                for start in range(0, len(wanted), 2):
                    if start // 2 == batches:
                        raise KeyboardInterrupt
                    batch = wanted[start : start + 2]
                    asked.extend(one.key for one in batch)
                    yield [(one, Written(answer(one.problem, one.sample, self.model), "stop")) for one in batch]

        monkeypatch.setattr(attempts, "Writer", Known)
        return asked

    return make


@pytest.fixture
def evaluate(base_model, file, tmp_path, capsys):
    """Calls the command; gives its result as JSON, or what it says where it ends with ``code``."""

    def call(*options, code=0, benchmark=file, to="out", model=base_model, allow=("--allow-execution",)):
        files = map(str, benchmark if isinstance(benchmark, list) else [benchmark])
        argv = ["evaluate", str(model), "--benchmark", *files, *allow, "--to", str(tmp_path / to), "--json"]
        ended = cli.main([*argv, "--workers", "2", *map(str, options)])
        shown = capsys.readouterr()
        if "cannot be contained" in shown.err:
            pytest.skip(shown.err)
        assert ended == code, shown.err
        return shown.err if code else json.loads(shown.out)

    return call


def own(problem, sample, model):
    return problem.solution


def lines(tmp_path, to="out", name="small"):
    (path,) = (tmp_path / to).glob(f"*/{name}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


SAMPLED = ("--samples", 4, "--temperature", 0.8)


def some(problem, sample, model):
    """Of four samples 4, 2, 1 and 0 are right."""
    return problem.solution if sample < (4, 2, 1, 0)[NAMES.index(problem.entry_point)] else WRONG


def test_the_benchmarks_own_solutions_all_pass(evaluate, writes, tmp_path):
    asked = writes(own)
    (entry,) = evaluate()["benchmarks"]
    assert entry["pass@1"] == {"value": 1.0, "interval": None}
    assert entry["outcomes"] == {"passed": 4}
    assert entry["own_solutions"] == {"tried": 4, "failed": []}
    assert asked == [(f"Test/{number}", 0) for number in range(4)]
    assert [(line["task_id"], line["outcome"]) for line in lines(tmp_path)] == [(key, "passed") for key, _ in asked]
    (result,) = (tmp_path / "out").glob("*/result.json")
    assert json.loads(result.read_text())["benchmarks"] == [entry]


def test_known_shares_of_right_answers_give_known_scores(evaluate, writes, tmp_path):
    writes(some)
    (entry,) = evaluate(*SAMPLED, "--k", 1, 2, 4)["benchmarks"]
    assert entry["outcomes"] == {"passed": 7, "fails its tests": 9}
    assert entry["pass@1"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 0) / 4)
    assert entry["pass@2"]["value"] == pytest.approx((1 + 5 / 6 + 1 / 2 + 0) / 4)
    assert entry["pass@4"]["value"] == pytest.approx(3 / 4)
    low, high = entry["pass@1"]["interval"]
    assert 0 <= low < entry["pass@1"]["value"] < high <= 1
    assert "AssertionError" in lines(tmp_path)[-1]["stderr"]


def test_a_second_model_is_compared_problem_by_problem(evaluate, writes, base_model, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(base_model)
    writes(lambda problem, sample, model: some(problem, sample, model) if model == str(other) else WRONG)
    score = evaluate("--against", other, *SAMPLED)["benchmarks"][0]["pass@1"]
    assert (score["value"], score["against"]) == (0, pytest.approx(1.75 / 4))
    assert score["difference"] == -score["against"]
    low, high = score["difference_interval"]
    assert -1 <= low < score["difference"] < high <= 0
    asked = writes(own)
    again = evaluate("--against", base_model, *SAMPLED, model=other)["benchmarks"][0]["pass@1"]
    assert asked == []  # both were there
    assert (again["value"], again["against"]) == (score["against"], score["value"])


HOSTILE = {
    "sys.exit": "    import sys; sys.exit(0)\n",
    "os._exit": "    import os; os._exit(0)\n",
    "for ever": "    while True: pass\n",
    "output": "    while True: print('x' * 10_000)\n",
    "memory": "    return [bytearray(2**24) for _ in range(2**10)]\n",
    "crash": "    import ctypes; ctypes.string_at(0)\n",
    "files": "    open('MARK', 'w').write('x'); return open('MARK').read()\n",
    "parent": "    import os, signal; os.kill(os.getppid(), signal.SIGKILL); os.kill(1, signal.SIGKILL)\n",
    "not utf-8": "    return '\\ud800'.encode('utf-8', 'surrogatepass') + bytes([255])\n",
    "no program": "\0 )(",
}


def test_hostile_completions_are_contained_and_do_not_pass(evaluate, writes, tmp_path):
    mark = tmp_path / "mark"
    code = [text.replace("MARK", str(mark)) for text in HOSTILE.values()]
    writes(lambda problem, sample, model: code[sample])
    (entry,) = evaluate("--samples", len(code), "--temperature", 1, "--timeout", 1, "--limit", 1)["benchmarks"]
    found = dict(zip(HOSTILE, (line["outcome"] for line in lines(tmp_path)), strict=True))
    assert found["sys.exit"] == found["os._exit"] == "ends before its tests"
    assert (found["for ever"], found["output"]) == ("over time", "too much output")
    assert "passed" not in found.values()
    assert entry["pass@1"]["value"] == 0
    assert not mark.exists()


def test_nothing_is_executed_or_asked_without_leave(evaluate, writes, tmp_path):
    asked = writes(own)
    assert "Allow it: --allow-execution." in evaluate(code=2, allow=())
    assert (asked, (tmp_path / "out").exists()) == ([], False)


def test_a_killed_run_goes_on_and_ends_with_the_same_lines(evaluate, writes, tmp_path):
    writes(some)
    expected = evaluate(*SAMPLED, to="whole")
    first = writes(some, batches=3)
    assert "interrupted" in evaluate(*SAMPLED, code=130)
    assert len(first) == 6
    (path,) = (tmp_path / "out").glob("*/small.jsonl")
    path.write_bytes(path.read_bytes()[:-20])  # torn in its last line
    second = writes(some, batches=1)
    evaluate(*SAMPLED, code=130)
    assert first[5] in second
    third = writes(some)
    assert evaluate(*SAMPLED) == expected
    assert sorted([*first[:5], *second, *third]) == sorted(
        (f"Test/{n}", sample) for n in range(4) for sample in range(4)
    )
    assert lines(tmp_path) == lines(tmp_path, "whole")


def test_more_samples_are_added_to_those_that_are_there(evaluate, writes, tmp_path):
    writes(some)
    evaluate(*SAMPLED[2:], "--limit", 2)
    asked = writes(some)
    expected = evaluate(*SAMPLED, to="whole")
    del asked[:]
    assert evaluate(*SAMPLED) == expected
    assert len(asked) == 16 - 2
    assert lines(tmp_path) == lines(tmp_path, "whole")
    assert evaluate(*SAMPLED[2:])["samples"] == 1
    assert len(lines(tmp_path)) == 16  # those that were not asked for stay


def test_verdicts_are_kept_and_found_anew_with_other_limits(evaluate, writes, monkeypatch):
    writes(
        lambda problem, sample, model: (
            "    import time; time.process_time()\n    while time.process_time() < 1.5: pass\n" + problem.solution
        )
    )
    assert evaluate("--limit", 1, "--timeout", 1)["benchmarks"][0]["outcomes"] == {"over time": 1}
    assert evaluate("--limit", 1, "--timeout", 10)["benchmarks"][0]["outcomes"] == {"passed": 1}
    monkeypatch.setattr("mftcoder.evaluation.benchmarks.work.judge", None)
    assert evaluate("--limit", 1, "--timeout", 10)["benchmarks"][0]["outcomes"] == {"passed": 1}


def test_completions_that_were_made_otherwise_are_not_mixed(evaluate, writes, file, base_model, tmp_path):
    asked = writes(own)
    evaluate()
    del asked[:]
    assert 'holds completions with another sampling: {"max_new_tokens": 512' in evaluate("--max-new-tokens", 8, code=2)
    write(file, PROBLEMS[:3])
    assert "with another benchmark" in evaluate(code=2)
    assert asked == []


def test_another_model_of_the_same_name_is_noticed(evaluate, writes, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("a")
    writes(own)
    evaluate(model=model)
    (model / "model.safetensors").write_text("ab")
    assert "with another weights" in evaluate(model=model, code=2)


def test_own_solutions_that_fail_are_named_and_if_all_do_nothing_is_asked(evaluate, writes, file, capsys, tmp_path):
    asked = writes(own)
    write(file, [*PROBLEMS[:3], problem(3) | {"canonical_solution": WRONG}])
    entry = evaluate()["benchmarks"][0]
    assert entry["own_solutions"] == {"tried": 4, "failed": ["Test/3"]}
    assert entry["pass@1"]["value"] == pytest.approx(3 / 4)
    del asked[:]
    broken = write(tmp_path / "broken.jsonl", [one | {"canonical_solution": WRONG} for one in PROBLEMS])
    told = evaluate(benchmark=broken, code=2)
    assert "its own solutions in python all fail on this machine" in told
    assert "Test/0: fails its tests: Traceback" in told
    assert asked == []


def test_a_language_without_its_toolchain_is_refused(evaluate, writes, monkeypatch):
    asked = writes(own)
    monkeypatch.setattr(run, "missing", lambda language: ["somelang"])
    assert "is in python, but there is no somelang on this machine" in evaluate(code=2)
    assert asked == []


def test_a_number_to_find_needs_no_execution(evaluate, writes, tmp_path):
    sums = [{"question": f"{n} + 1?", "answer": f"It is\n#### {n + 1}"} for n in range(4)]
    writes(lambda problem, sample, model: f"I think 9, no: {problem.tests}." if problem.name != "2" else "#### 7")
    (entry,) = evaluate(benchmark=write(tmp_path / "sums.jsonl", sums), allow=())["benchmarks"]
    assert entry["language"] == "text"
    assert entry["pass@1"]["value"] == 0.75
    assert entry["outcomes"] == {"passed": 3, "another number": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", 2), "--samples: all would be the same; add --temperature"),
        (("--k", 2), "--k 2: is more than --samples 1"),
        (("--split", "probe"), "--split: goes with --shards"),
        (("--language", "cobol"), "small.jsonl:1: language must be one of"),
    ],
)
def test_options_that_contradict_are_refused(evaluate, writes, file, options, message):
    writes(own)
    write(file, [{key: value for key, value in one.items() if key != "language"} for one in PROBLEMS])
    assert message in evaluate(*options, code=2)


def test_options_of_benchmarks_do_not_go_with_shards(base_model, capsys):
    for options in (["--to", "x"], ["--samples", "2"], ["--no-chat"], ["--limit", "1"], ["--allow-execution"]):
        assert cli.main(["evaluate", str(base_model), "--shards", "none", *options]) == 2
        assert f"{options[0]}" in (told := capsys.readouterr().err)
        assert "goes with --benchmark" in told


def test_two_files_of_one_name_are_refused(evaluate, writes, file, tmp_path):
    writes(own)
    (tmp_path / "deeper").mkdir()
    second = write(tmp_path / "deeper" / "small.jsonl", PROBLEMS)
    assert "has the same name as" in evaluate(benchmark=[file, second], code=2)


@pytest.mark.parametrize("chat", [True, False])
def test_a_tiny_model_runs_to_the_end_and_passes_nothing(evaluate, base_model, tmp_path, chat, file):
    long = problem(0) | {"task_id": "Test/long", "prompt": "# " + 200 * "long " + "\ndef add(a, b=0):\n"}
    write(file, [*(PROBLEMS[:2] if not chat else []), long])
    options = ["--samples", 3, "--temperature", 1, "--max-new-tokens", 6, "--batch-size", 2]
    result = evaluate(*options, *([] if chat else ["--no-chat"]))
    (entry,) = result["benchmarks"]
    assert result["chat"] is chat
    assert entry["pass@1"]["value"] == 0
    assert entry["no_room"] == 3
    found = lines(tmp_path)
    assert len(found) == 3 * (1 if chat else 3)
    assert all(line["completion"] == "" for line in found if line["finish"] == "no room")
    if not chat:
        assert len({line["completion"] for line in found}) > 3
        assert evaluate(*options, "--no-chat", to="again", code=0) == result
        assert lines(tmp_path, "again") == found
