"""`construct verify` on task files: what is kept, resuming, equal bytes, bad input."""

import json

import pytest
from construct_project import Made, write_config
from endpoint import Reply

from mftcoder import cli
from mftcoder.construct import verify_file as module

GOOD = {"code": "def f(x):\n    return x + 1", "tests": "assert f(1) == 2", "language": "python"}
RECORDS = [
    GOOD,
    GOOD | {"tests": "assert f(1) == 3"},
    GOOD | {"tests": "f(1)"},
    GOOD | {"tests": ""},
    GOOD | {"language": "cobol"},
    GOOD | {"code": 7},
    GOOD | {"tests": "assert f(2) == 3", "id": 6},
]
REASONS = [
    "",
    "fails its tests",
    "tests notice no mutant",
    "no tests",
    "unverifiable: language cobol",
    "no field code",
    "",
]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def run(*argv, code=0):
    assert cli.main(["construct", "verify", *map(str, argv)]) == code


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def verified(task, capsys):
    """What the command makes of the task file."""
    if cli.main(["construct", "verify", str(task), "--allow-execution", "--workers", "2"]) and (
        "cannot be contained" in (told := capsys.readouterr().err)
    ):
        pytest.skip(told)
    return task.with_name("task.verified.jsonl")


def test_records_are_kept_or_left_out_with_counts_and_reasons(task, verified):
    assert [{k: v for k, v in record.items() if k != "proof"} for record in lines(verified)] == [RECORDS[0], RECORDS[6]]
    assert all(record["proof"]["mutants"] >= 1 for record in lines(verified))
    verdicts = lines(module.beside(verified, "verdicts"))
    assert [verdict["reason"] for verdict in verdicts] == REASONS
    assert [verdict["where"].rpartition(":")[2] for verdict in verdicts] == list("1234567")
    manifest = json.loads(module.beside(verified, "manifest").read_text())
    assert (manifest["found"], manifest["proven"], manifest["samples"]) == (7, 2, 2)
    assert manifest["left_out"] == {reason: 1 for reason in REASONS if reason}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(task, verified, monkeypatch):
    names = (verified, module.beside(verified, "verdicts"), module.beside(verified, "manifest"))
    before = [path.read_bytes() for path in names]
    known = before[1].splitlines(keepends=True)
    names[1].write_bytes(b"".join(known[:3]) + known[3][:20])
    verified.unlink()
    proven = []
    real = module.prove
    monkeypatch.setattr(module, "prove", lambda case, *more: proven.append(case) or real(case, *more))
    run(task, "--allow-execution", "--workers", 1)
    assert [path.read_bytes() for path in names] == before
    assert len(proven) == 3  # the fourth, the fifth and the last; the sixth cannot be read
    run(task, "--allow-execution", "--set", "mutants=5")
    assert len(proven) == 9  # other settings, other verdicts


def test_what_is_unverifiable_can_be_kept(task, verified):
    run(task, "--allow-execution", "--set", "unverifiable=keep")
    kept = lines(verified)
    assert [record["proof"].get("unverifiable") for record in kept] == [None, "language cobol", None]


def test_fields_and_language_can_be_named(tmp_path, verified):
    path = tmp_path / "named.jsonl"
    path.write_text(
        json.dumps({"a": {"head": "def g(x):\n", "body": "    return 3 * x"}, "t": ["a = g(2)", "assert a == 6"]})
    )
    run(path, "--allow-execution", code=2)
    named = ("--solution", "a.head,a.body", "--tests", "t", "--language", "Python")
    run(path, "--allow-execution", *named, "--out", tmp_path / "deep" / "out.jsonl")
    assert lines(tmp_path / "deep" / "out.jsonl")[0]["proof"]["language"] == "python"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "Allow it: --allow-execution."),
        (["--allow-execution", "--solution", "code"], "--solution and --tests: name the fields of both"),
        (["--allow-execution", "--set", "mutant=3"], 'mutant: unknown key; did you mean "mutants"?'),
        (["--allow-execution", "--set", "modules.python=/nonexistent"], "verify.modules: /nonexistent is no folder"),
    ],
)
def test_bad_input(task, capsys, more, told):
    run(task, *more, code=2)
    assert told in capsys.readouterr().err


def test_the_task_file_is_not_overwritten(task, capsys):
    run(task, "--allow-execution", "--out", task, code=2)
    assert "is the task file itself" in capsys.readouterr().err
    assert len(lines(task)) == len(RECORDS)


def test_a_file_of_which_nothing_is_proven_fails(tmp_path, verified, capsys):
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(RECORDS[1]))
    run(path, "--allow-execution", code=1)
    assert "no sample is proven: fails its tests 1." in capsys.readouterr().err
    assert not path.with_name("wrong.verified.jsonl").exists()


def test_construct_run_keeps_tests_that_pass_and_notice(serve, tmp_path, verified, capsys):
    """A model that writes good, wrong, empty and hostile tests."""
    tests = {
        "good": "assert good(2) == 3",
        "wrong": "assert wrong(2) == 4",
        "empty": "x = empty(2)\nassert x or not x",
        "hostile": "import os\nwhile True:\n try: os.fork()\n except OSError: pass\nassert hostile(1)",
    }
    snippets = [{"code": f"def {name}(x):\n    return x + 1", "language": "Python"} for name in tests]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(snippet) + "\n" for snippet in snippets))

    def script(request):
        name = next(name for name in tests if f"def {name}(" in request.prompt)
        return Reply(f"These are the tests:\n\n```python\n{tests[name]}\n```")

    serve(script)
    generator = {"type": "transform", "transforms": ["tests"], "snippets": str(tmp_path / "code.jsonl")}
    verify = {"type": "execute", "cpu_seconds": 1}
    config = write_config(tmp_path, generator, verify=verify, quality={"languages": None})
    assert cli.main(["construct", "run", str(config)]) == 2
    assert "--allow-execution" in capsys.readouterr().err
    assert cli.main(["construct", "run", str(config), "--allow-execution"]) == 0
    made = Made(tmp_path / "out", [])
    assert made.steps["verify"]["left_out"] == {
        "fails its tests": 1,
        "over time": 1,
        "tests notice no mutant": 1,
    }
    (record,) = made.records
    assert "good(2)" in record["messages"][-1]["content"]
    assert record["source"]["proof"]["language"] == "python"
