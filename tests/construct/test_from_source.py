"""Datasets from source: against the source files themselves, read by inspect, tokenize and textwrap."""

import ast
import difflib
import inspect
import json
import os
import random
import re
import subprocess
import sys
import textwrap
import tokenize
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mftcoder import cli
from mftcoder.config.schema import Task
from mftcoder.construct import from_source
from mftcoder.construct.counts import as_table
from mftcoder.construct.from_source import TASKS
from mftcoder.data.reading import read_file
from mftcoder.data.sources import source_files
from mftcoder.errors import MftcoderError

CODE = ["completion", "text-to-code", "repair"]
FENCE = re.compile(r"^(`{3,})python\n(.*)\n\1$", re.DOTALL | re.MULTILINE)
GOOD = '''def f(x):
    """Return the sum of x."""
    total = sum(x)
    print(total + 1, "is more than the sum")
    return total
'''


def construct(*arguments: Any, **settings: Any) -> dict[str, Any]:
    """Licences have tests of their own."""
    return from_source.construct(*arguments, **{"licences": ["any"]} | settings)


def quiet(message: str) -> None:
    pass


def records(out: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{task}.jsonl").read_bytes().splitlines()]


def contents(record: dict) -> list[str]:
    """Prompt and answer, as code where they hold a fenced block."""
    texts = [message["content"] for message in record["messages"]]
    return [found[2] if (found := FENCE.search(text)) else text for text in texts]


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode() if isinstance(text, str) else text)
    return root


@pytest.fixture(scope="module")
def made(library, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("made")
    return out, construct(out, [library], tell=quiet)


def original(library: Path, record: dict) -> str:
    """The record's function as inspect's tokenizer, which knows nothing of ast, cuts it out of the file."""
    lines = (library / record["source"]["path"]).read_text().splitlines(keepends=True)
    block = textwrap.dedent("".join(inspect.getblock(lines[record["source"]["line"] - 1 :]))).split("\n")
    while not block[-1].strip() or block[-1].strip().startswith("#"):  # ast knows no comments after the last statement
        block.pop()
    return "\n".join(block)


@pytest.mark.parametrize("task", ["completion", "text-to-code"])
def test_prompt_and_answer_joined_are_the_function_in_the_file(library, made, task):
    found = records(made[0], task)
    assert len(found) > 20
    for record in found:
        beginning, rest = contents(record)
        assert f"{beginning}\n{rest}" == original(library, record)
        assert rest.split("\n")[0].strip()


def test_text_to_code_cuts_right_after_the_docstring(made):
    for record in records(made[0], "text-to-code"):
        [function] = ast.parse(contents(record)[0]).body
        assert len(function.body) == 1
        assert ast.get_docstring(function)


def test_comment_answers_are_the_docstrings_of_the_file_and_prompts_lack_nothing_else(library, made):
    found = records(made[0], "comment")
    assert len(found) > 20
    for record in found:
        code, docstring = contents(record)
        tree = ast.parse((library / record["source"]["path"]).read_text())
        line = record["source"]["line"]
        [node] = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.FunctionDef) and line in (n.lineno, *(d.lineno for d in n.decorator_list))
        ]
        assert docstring == ast.get_docstring(node)
        node.body.pop(0)
        assert ast.dump(ast.parse(code).body[0]) == ast.dump(node)


def hunks(before: list[str], after: list[str]) -> list[tuple[int, int]]:
    """First line and number of lines of each place where two texts differ, as diff sees it."""
    codes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [(first + 1, last - first) for tag, first, last, _, _ in codes if tag != "equal"]


def test_repair_prompts_differ_from_the_function_by_one_edit_and_both_parse(library, made):
    found = records(made[0], "repair")
    assert len(found) > 40
    for record in found:
        broken, whole = contents(record)
        assert whole == original(library, record)
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(whole))
        [hunk] = hunks(broken.splitlines(), whole.splitlines())
        assert hunk[0] == record["defect"]["line"]
        assert hunk[1] == 1 or record["defect"]["kind"] == "swapped arguments"


def test_every_function_is_in_a_record_or_in_a_count(library, made):
    out, counts = made
    names = 0
    for path in library.rglob("*.py"):
        with tokenize.open(path) as file:
            names += sum(token.string == "def" for token in tokenize.generate_tokens(file.readline))
    assert counts["functions"]["found"] == names
    assert counts["functions"]["found"] == counts["functions"]["used"] + sum(counts["functions"]["left_out"].values())
    for task in TASKS:
        count = counts["tasks"][task]
        if task != "unit-test":
            assert count["found"] == counts["files" if task == "text" else "functions"]["used"]
        assert count["found"] == count["records"] + sum(count["left_out"].values())
        assert count["records"] == len(records(out, task))
    assert sum(counts["tasks"]["repair"]["defects"].values()) == counts["tasks"]["repair"]["records"]
    assert json.loads((out / "construct.manifest").read_text()) == counts


def without_addresses(text: str) -> str:
    return re.sub(r"[\w.]+@\w+\.[\w.]*\w", "user@example.com", text)


def test_a_file_has_the_same_group_in_every_task_and_text_is_the_file(library, made):
    groups = {task: {record["group"] for record in records(made[0], task)} for task in TASKS}
    assert groups["text"] == {path.relative_to(library).as_posix() for path in library.rglob("*.py")}
    assert all(groups[task] <= groups["text"] for task in TASKS)
    for record in records(made[0], "text"):
        assert record["text"] == without_addresses((library / record["group"]).read_text())


def test_the_order_of_the_file_system_does_not_matter(library, made, tmp_path, monkeypatch):
    scandir = os.scandir

    @contextmanager
    def shuffled(path):
        with scandir(path) as entries:
            found = list(entries)
        random.Random(1).shuffle(found)
        yield iter(found)

    monkeypatch.setattr(os, "scandir", shuffled)
    construct(tmp_path, [library], tell=quiet)
    for task in TASKS:
        assert (tmp_path / f"{task}.jsonl").read_bytes() == (made[0] / f"{task}.jsonl").read_bytes()


def test_another_process_with_other_hashes_and_task_order_writes_the_same_bytes(library, made, tmp_path):
    code = "import sys; from pathlib import Path; from mftcoder.construct.from_source import construct\n"
    code += "construct(Path(sys.argv[1]), [Path(sys.argv[2])], ['repair', 'completion'], licences=['any'])"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, tmp_path, library], env=environment, check=True)
    for task in ["repair", "completion"]:
        assert (tmp_path / f"{task}.jsonl").read_bytes() == (made[0] / f"{task}.jsonl").read_bytes()


def test_another_seed_makes_other_choices(library, made, tmp_path):
    construct(tmp_path, [library], ["completion", "comment"], seed=1, tell=quiet)
    assert records(tmp_path, "completion") != records(made[0], "completion")
    assert records(tmp_path, "comment") == records(made[0], "comment")  # nothing to choose


def test_max_samples_keeps_so_many_of_the_records_in_their_order(library, made, tmp_path):
    counts = construct(tmp_path, [library], max_samples=7, tell=quiet)
    for task in ["completion", "repair"]:
        kept, everything = records(tmp_path, task), records(made[0], task)
        places = [everything.index(record) for record in kept]
        assert len(kept) == 7
        assert places == sorted(places)
        assert places != list(range(7))
        assert counts["tasks"][task]["left_out"]["over max_samples"] == len(everything) - 7


def test_max_chars_bounds_every_conversation(library, made, tmp_path):
    counts = construct(tmp_path, [library], CODE, max_chars=900, tell=quiet)
    for task in CODE:
        sizes = [sum(len(message["content"]) for message in record["messages"]) for record in records(made[0], task)]
        assert counts["tasks"][task]["records"] == sum(size <= 900 for size in sizes) < len(sizes)


def test_copies_of_files_and_functions_that_differ_in_whitespace_are_left_out(tmp_path):
    spaced = GOOD.replace("\n    total", "\n\n    total")
    root = write(
        tmp_path / "root",
        {
            "a.py": "import os, sys, re, json, ast, random, tokenize, textwrap\n\n" + GOOD,
            "b.py": "import os, sys, re, json, ast, random, tokenize, textwrap\n\n\n" + spaced,
            "c.py": "class C:\n"
            + textwrap.indent(spaced, "    ")
            + "\n    names = 'another file, not a copy of the others'\n",
        },
    )
    counts = construct(tmp_path / "out", [root], tell=quiet)
    assert counts["files"] == {"found": 3, "used": 2, "left_out": {"duplicate": 1}}
    assert counts["functions"] == {"found": 2, "used": 1, "left_out": {"duplicate": 1}}
    assert [record["source"]["path"] for record in records(tmp_path / "out", "comment")] == ["a.py"]


def test_what_should_not_be_learnt_from_is_counted_by_reason(tmp_path):
    root = write(
        tmp_path / "root",
        {
            "good.py": GOOD,
            "short.py": "x = 1\n",
            "broken.py": "def f(:\n" + GOOD,
            "null.py": GOOD + "\0",
            "latin.py": b"# caf\xe9\n" + GOOD.encode(),
            "cookie.py": b"# -*- coding: latin-1 -*-\nname = 'caf\xe9'\n" + GOOD.replace("total", "amount").encode(),
            "made.py": "# Generated by a tool. Do not edit.\n" + GOOD,
            "large.py": "x = 1\n" * 200_000,
            "tests/a.py": GOOD,
            "test_b.py": GOOD,
            ".venv/lib/a.py": GOOD,
            "lib/site-packages/a.py": GOOD,
            "notes.txt": GOOD,
        },
    )
    counts = construct(tmp_path / "out", [root], tell=quiet)
    assert counts["files"]["found"] == 10
    assert counts["files"]["used"] == 2
    assert counts["files"]["left_out"] == {
        "syntax error": 2,
        "test": 2,
        "generated": 1,
        "too long": 1,
        "too short": 1,
        "undecodable": 1,
    }
    assert {record["group"] for record in records(tmp_path / "out", "text")} == {"good.py", "cookie.py"}
    assert "name = 'café'" in records(tmp_path / "out", "text")[0]["text"]


METHODS = """
class C:
    def f(self):
        '''Say it all.

        Twice.
        '''
        a = 1
        b = (2,
             "x" "y")
        return a, b

    def g(self):
        a = 1
        b = '''x
        y'''
        return a, b
"""
MOVED = """
def f(self):
    '''Say it all.

    Twice.
    '''
    a = 1
    b = (2,
         "x" "y")
    return a, b
"""


def test_methods_move_to_the_margin_unless_that_changes_a_string(tmp_path):
    counts = construct(tmp_path / "out", [write(tmp_path / "root", {"a.py": METHODS})], tell=quiet)
    assert counts["functions"] == {"found": 2, "used": 1, "left_out": {"not to be dedented": 1}}
    [record] = records(tmp_path / "out", "repair")
    assert contents(record)[1] == MOVED.strip()


DECORATED = """
@cached
@named("outer")
def outer():
    x = 1

    @cached
    def inner(x):
        x += 1
        x += 2
        return x
    return inner(x)
"""


def test_decorators_stay_with_their_function_and_inner_functions_with_the_outer(tmp_path):
    root = write(tmp_path / "root", {"a.py": DECORATED})
    beginnings = set()
    for seed in range(30):
        counts = construct(tmp_path / "out", [root], ["completion"], seed=seed, tell=quiet)
        assert counts["functions"] == {"found": 2, "used": 1, "left_out": {"inside another function": 1}}
        [record] = records(tmp_path / "out", "completion")
        assert record["source"]["line"] == 2
        assert "\n".join(contents(record)) == DECORATED.strip()
        beginnings.add(contents(record)[0].count("\n") + 1)
    assert beginnings == {5, 7, 8, 9, 10}


def test_fences_are_longer_than_any_in_the_code(tmp_path):
    root = write(tmp_path / "root", {"a.py": GOOD.replace("Return the sum of x.", "Return the ````sum```` of x.")})
    construct(tmp_path / "out", [root], tell=quiet)
    [record] = records(tmp_path / "out", "repair")
    assert record["messages"][1]["content"].startswith("`````python\n")
    assert ast.parse(contents(record)[1])


def test_windows_line_ends_become_plain_ones(tmp_path):
    root = write(tmp_path / "root", {"a.py": GOOD.replace("\n", "\r\n")})
    construct(tmp_path / "out", [root], tell=quiet)
    assert contents(records(tmp_path / "out", "repair")[0])[1] == GOOD.rstrip("\n")


def test_source_is_never_run(tmp_path):
    marker = tmp_path / "ran"
    root = write(tmp_path / "root", {"a.py": f"open({str(marker)!r}, 'w').close()\nraise SystemExit(1)\n" + GOOD})
    construct(tmp_path / "out", [root], tell=quiet)
    assert not marker.exists()


def test_a_run_without_records_leaves_the_earlier_files_alone(tmp_path):
    out = tmp_path / "out"
    construct(out, [write(tmp_path / "root", {"a.py": GOOD})], tell=quiet)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(MftcoderError, match=r"no record could be made.*too short"):
        construct(out, [write(tmp_path / "empty", {"a.py": "x = 1\n"})], tell=quiet)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_folder_can_be_the_path_of_a_task(tmp_path):
    out = tmp_path / "out"
    counts = construct(out, [write(tmp_path / "root", {"a.py": GOOD})], ["comment", "repair"], tell=quiet)
    files = source_files(Task(name="all", path=str(out)))
    assert [file.name for file in files] == ["comment.jsonl", "repair.jsonl"]
    assert sum(1 for file in files for _ in read_file(file)) == sum(
        task["records"] for task in counts["tasks"].values()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--roots", "gone"], "gone: no such folder. Name a folder of source files."),
        (["--roots"], "argument --roots: expected at least one argument"),
        (["--tasks", "comment,docs"], 'there is no task "docs". Choose from completion'),
        (["--tasks", "comment,"], 'argument --tasks: must be names with commas between them; found "comment,"'),
        (["--languages", "python,cobol"], 'there is no language "cobol". Choose from python'),
        (["--languages", ""], 'argument --languages: must be names with commas between them; found ""'),
        (["--licences", "MIT,free"], '"free" is not known. Choose from permissive'),
        (["--licences", ""], 'argument --licences: must be names with commas between them; found ""'),
        (["--workers", "0"], 'argument --workers: must be an integer above 0; found "0"'),
        (["--max-samples", "none"], 'argument --max-samples: must be an integer above 0; found "none"'),
        (["--max-chars", "-5"], 'argument --max-chars: must be an integer above 0; found "-5"'),
        (["--seed", "1.5"], 'argument --seed: must be an integer from 0 to 4294967295; found "1.5"'),
    ],
)
def test_wrong_options_are_refused_by_name(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "root", {"a.py": GOOD})
    argv = ["construct", "from-source", "out", "--roots", "root", *options]
    try:
        code = cli.main(argv)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_may_have_spaces_and_come_twice(tmp_path):
    root = write(tmp_path / "root", {"a.py": GOOD})
    argv = ["construct", "from-source", str(tmp_path / "out"), "--roots", str(root), "--licences", "any"]
    assert cli.main([*argv, "--tasks", "comment, repair,comment"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["comment.jsonl", "repair.jsonl"]


def test_wrong_arguments_are_refused_with_where_and_what(tmp_path):
    root = write(tmp_path / "root", {"a.py": GOOD, "nothing/notes.txt": "x"})
    cases = [
        (r'no task "docs"\. Choose from completion', {"tasks": ["docs"]}),
        (r"gone: no such folder", {"roots": [root / "gone"]}),
        (r"a\.py: no such folder", {"roots": [root / "a.py"]}),
        (r"nothing: found no source file", {"roots": [root / "nothing"]}),
        (r"notes\.txt: cannot be written \(File exists\)", {"out": root / "nothing/notes.txt"}),
        (r"max_samples: must be at least 1; found 0", {"max_samples": 0}),
    ]
    for message, arguments in cases:
        with pytest.raises(MftcoderError, match=message):
            construct(**{"out": tmp_path / "out", "roots": [root], "tell": quiet} | arguments)
    assert not (tmp_path / "out").exists()


def test_the_table_shows_every_task_and_every_reason(made):
    counts = made[1]
    shown = as_table(counts)
    cells = [list(column.cells) for column in shown.columns]
    assert cells[0] == ["files", "functions", *TASKS]
    assert cells[1][2:] == [f"{counts['tasks'][task]['records']:,}" for task in TASKS]
    assert f"too short {counts['functions']['left_out']['too short']:,}" in cells[3][1]
