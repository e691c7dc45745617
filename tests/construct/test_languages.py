"""Datasets from source in other languages than Python: against the files themselves, as text."""

import json
import re
import textwrap
from pathlib import Path

import pytest
from sources import FILES

from mftcoder.config.schema import Task
from mftcoder.construct import tree_defects
from mftcoder.construct.from_source import TASKS, construct
from mftcoder.construct.languages import LANGUAGES, NAMES, parser
from mftcoder.construct.trees import Source, functions
from mftcoder.data.records import Text
from mftcoder.data.task_records import read_records, record_format
from mftcoder.errors import MftcoderError

FENCE = re.compile(r"^(`{3,})\w*\n(.*)\n\1$", re.DOTALL | re.MULTILINE)


def quiet(message: str) -> None:
    pass


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def records(out: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{task}.jsonl").read_text().splitlines()]


def contents(record: dict) -> list[str]:
    texts = [message["content"] for message in record["messages"]]
    return [found[2] if (found := FENCE.search(text)) else text for text in texts]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, dict]:
    root = write(tmp_path_factory.mktemp("project"), FILES)
    out = tmp_path_factory.mktemp("made")
    return root, out, construct(out, [root], licences=["any"], tell=quiet)


def original(root: Path, record: dict) -> str:
    """The lines that a record names, at the left margin."""
    source = record["source"]
    lines = (root / source["path"]).read_text().split("\n")
    return textwrap.dedent("\n".join(lines[source["line"] - 1 : source["last_line"]]))


def keys(found: list[dict]) -> set[str]:
    return {record["source"]["language"] for record in found}


@pytest.mark.parametrize("task", ["completion", "completion-body", "text-to-code"])
def test_prompt_and_answer_joined_are_the_lines_of_the_file(made, task):
    root, out, _ = made
    found = records(out, task)
    assert keys(found) == set(NAMES)
    for record in found:
        assert "\n".join(contents(record)) == original(root, record)


@pytest.mark.parametrize(("task", "between"), [("completion-line", ""), ("completion-block", "\n")])
def test_shorter_completions_go_on_where_the_prompt_ends(made, task, between):
    root, out, _ = made
    found = records(out, task)
    assert found
    for record in found:
        beginning, rest = contents(record)
        whole = original(root, record)
        assert whole.startswith(f"{beginning}{between}{rest}\n")
        assert rest.strip()


def test_the_middle_fills_the_hole_and_is_where_the_record_says(made):
    root, out, _ = made
    task = Task(name="infill", path=str(out / "infill.jsonl"))
    assert record_format(task) == "infill"
    raw, read = records(out, "infill"), list(read_records(task))
    assert keys(raw) == set(NAMES)
    for record, sample in zip(raw, read, strict=True):
        assert isinstance(sample, Text)
        assert record["prefix"] + record["middle"] + record["suffix"] == original(root, record) == sample.text
        assert sample.hole is not None
        assert sample.text[slice(*sample.hole)] == record["middle"]
        assert record["middle"].strip()


def test_what_documents_a_function_is_all_that_comment_takes_away(made):
    root, out, _ = made
    found = records(out, "comment")
    assert keys(found) == set(NAMES)
    for record in found:
        code, answer = contents(record)
        gone = original(root, record)
        for line in code.split("\n"):
            assert line in gone.split("\n")
        said = re.findall(r"\w+", answer)
        taken = set(re.findall(r"\w+", gone)) - set(re.findall(r"\w+", code))
        assert taken <= set(said)
        assert not any(mark in answer for mark in ("/*", "*/", "//", '"""'))
        assert len(original(root, record)) > len(code) + len(answer)


def test_repaired_functions_are_those_of_the_file_and_broken_ones_differ_by_one_edit_that_parses(made):
    root, out, _ = made
    found = records(out, "repair")
    assert keys(found) == set(NAMES)
    for record in found:
        broken, whole = contents(record)
        assert whole == original(root, record)
        lines = zip(broken.split("\n"), whole.split("\n"), strict=True)
        changed = [number for number, (now, before) in enumerate(lines, 1) if now != before]
        assert changed == [record["defect"]["line"]]


CASES = {  # language: code, mutants of its only statement by kind
    "java": (
        "class A {{\nint f(int a, int b, String s) {{\n g();\n g();\n{}\n}}\n}}",
        "return h(a, b) <= 2 && !k() ? m[1] : s;",
        {
            "comparison": {"return h(a, b) < 2 && !k() ? m[1] : s;"},
            "and/or": {"return h(a, b) <= 2 || !k() ? m[1] : s;"},
            "off by one": {f"return h(a, b) <= {n} && !k() ? m[{m}] : s;" for n, m in [(1, 1), (3, 1), (2, 0), (2, 2)]},
            "wrong variable": {f"return h({x}, {x}) <= 2 && !k() ? m[1] : s;" for x in "ab"},
            "missing not": {"return h(a, b) <= 2 && k() ? m[1] : s;"},
            "swapped arguments": {"return h(b, a) <= 2 && !k() ? m[1] : s;"},
        },
    ),
    "javascript": (
        "function f(a) {{\n g();\n g();\n{}\n}}",
        'return a + 1 === "x" + k();',
        {
            "comparison": {'return a + 1 !== "x" + k();'},
            "plus/minus": {'return a - 1 === "x" + k();'},
            "off by one": {f'return a + {n} === "x" + k();' for n in (0, 2)},
            "missing return": {'a + 1 === "x" + k();'},
        },
    ),
    "go": (
        "package a\nfunc f(a int) {{\n g()\n for {{\n switch a {{ case 1: break }}\n{}\n }}\n}}",
        "break",
        {"break/continue": {"continue"}},
    ),
    "rust": (
        "fn f(a: u8, b: &u8) {{\n g();\n loop {{\n g();\n{}\n }}\n}}",
        "if !(a > 1) {{ continue; }}".replace("{{", "{").replace("}}", "}"),
        {
            "comparison": {"if !(a >= 1) { continue; }"},
            "off by one": {"if !(a > 0) { continue; }", "if !(a > 2) { continue; }"},
            "missing not": {"if (a > 1) { continue; }"},
            "break/continue": {"if !(a > 1) { break; }"},
        },
    ),
    "cpp": (
        "int f(int *a, int b, int *c) {{\n g();\n g();\n{}\n}}",
        "return a[0] - max(a, c) == b;",
        {
            "comparison": {"return a[0] - max(a, c) != b;"},
            "plus/minus": {"return a[0] + max(a, c) == b;"},
            "off by one": {"return a[1] - max(a, c) == b;"},
            "wrong variable": {
                f"return {x}[0] - max({y}, {z}) == b;" for x, y, z in map(tuple, ["cac", "acc", "aaa"])
            },
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", CASES)
def test_the_defects_found_are_exactly_those_enumerated_by_hand(language):
    code, statement, expected = CASES[language]
    source = Source(code.format(statement), language)
    [make] = functions(source, "root", "file")
    function = make()
    found: dict[str, set[str]] = {}
    for kind, edits in tree_defects.edits(function).items():
        for edit in edits:
            if made := tree_defects.edited(function, edit):
                line, broken = made
                found.setdefault(kind, set()).add(broken.split("\n")[line - 1].strip())
    assert found == expected


def test_tests_are_paired_with_what_they_call(made):
    root, out, counts = made
    found = records(out, "unit-test")
    assert keys(found) == set(NAMES) - {"c"}
    for record in found:
        code, test = contents(record)
        assert code == original(root, record)
        place = record["test"]
        lines = (root / place["path"]).read_text().split("\n")
        assert test == textwrap.dedent("\n".join(lines[place["line"] - 1 : place["last_line"]]))
        assert record["group"] == record["source"]["path"]
    assert counts["tasks"]["unit-test"]["found"] == len(found)


def test_no_test_stands_among_the_functions(made):
    for task in ("completion", "repair"):
        assert not any("test" in record["source"]["path"].lower() for record in records(made[1], task))
        assert not any("#[test]" in contents(record)[1] for record in records(made[1], task))


def test_processes_write_the_same_bytes_as_one(made, tmp_path):
    root, out, counts = made
    again = construct(tmp_path, [root], licences=["any"], workers=2, tell=quiet)
    assert again == counts
    for task in TASKS:
        assert (tmp_path / f"{task}.jsonl").read_bytes() == (out / f"{task}.jsonl").read_bytes()


def test_every_record_of_every_task_is_read_by_tokenize(made):
    for task in TASKS:
        named = Task(name=task, path=str(made[1] / f"{task}.jsonl"))
        assert len(list(read_records(named))) == made[2]["tasks"][task]["records"]


def test_only_the_languages_that_are_asked_for_are_read(made, tmp_path):
    counts = construct(tmp_path, [made[0]], ["completion"], languages=["go", "rust"], licences=["any"], tell=quiet)
    assert counts["languages"] == {"go": 1, "rust": 1}


def test_syntax_errors_cost_the_file_or_where_macros_make_them_the_function(tmp_path):
    broken = {path: text + "\nint broken( {{{\n" for path, text in FILES.items() if path.endswith((".go", ".c"))}
    root = write(tmp_path / "root", broken)
    counts = construct(tmp_path / "out", [root], ["completion"], licences=["any"], tell=quiet)
    assert counts["files"]["left_out"] == {"syntax error": 1, "test": 1}
    assert counts["languages"] == {"c": 1}


def test_a_language_that_is_not_known_is_refused(made, tmp_path):
    with pytest.raises(MftcoderError, match=r'there is no language "cobol"\. Choose from python, java'):
        construct(tmp_path, [made[0]], languages=["cobol"], tell=quiet)


@pytest.mark.parametrize("key", [key for key in LANGUAGES if key != "python"])
def test_every_node_that_a_language_names_is_in_its_grammar(key):
    language = parser(key).language
    row = LANGUAGES[key]
    for node in row.functions | row.wrappers | row.attributes | row.declarations:
        assert language.id_for_node_kind(node, True) is not None, node
    for some in (row.blocks, row.loops, row.strings, row.numbers, row.subscripts, row.arguments):
        assert any(language.id_for_node_kind(node, True) is not None for node in some)
