"""Proof by execution: what passes, what is left out and why, in every language that is there."""

import pytest

from mftcoder.construct.execution import Case, open_sandbox, prove
from mftcoder.construct.settings.samples import ExecuteVerification
from mftcoder.errors import MftcoderError
from mftcoder.sandbox.languages import LANGUAGES, missing

SETTINGS = ExecuteVerification(type="execute", cpu_seconds=20)
ADD = {
    "python": ("def add(a, b):\n    return a + b", "assert add(2, 3) == 5", "assert add(2, 3) == 6", "add(2, 3)"),
    "javascript": (
        "function add(a, b) { return a + b; }",
        "if (add(2, 3) !== 5) throw new Error('wrong');",
        "if (add(2, 3) !== 6) throw new Error('wrong');",
        "add(2, 3);",
    ),
    "java": (
        "package a.b;\nimport java.util.List;\npublic class Sum { static int add(int a, int b) { return a + b; } }",
        "import java.util.*;\nclass Main { public static void main(String[] x) { assert Sum.add(2, 3) == 5; } }",
        "class Main { public static void main(String[] x) { assert Sum.add(2, 3) == 6; } }",
        "class Main { public static void main(String[] x) { Sum.add(2, 3); } }",
    ),
    "cpp": (
        "#include <cassert>\nint add(int a, int b) { return a + b; }",
        "int main() { assert(add(2, 3) == 5); }",
        "int main() { assert(add(2, 3) == 6); }",
        "int main() { add(2, 3); }",
    ),
    "go": (
        'package main\nimport "fmt"\nfunc add(a int, b int) int {\n\treturn a + b\n}',
        'func main() {\n\tif add(2, 3) != 5 { panic("wrong") }\n}',
        'func main() {\n\tif add(2, 3) != 6 { panic("wrong") }\n}',
        "func main() { add(2, 3) }",
    ),
}


@pytest.fixture(scope="module")
def sandbox():
    try:
        with open_sandbox(SETTINGS, allowed=True, workers=1) as opened:
            yield opened
    except MftcoderError as reason:
        pytest.skip(str(reason))


def reason(case, sandbox, **changes):
    return prove(case, SETTINGS.model_copy(update=changes), sandbox).reason


@pytest.mark.parametrize("language", LANGUAGES)
def test_good_wrong_and_empty_tests_of_each_language(sandbox, language):
    if absent := missing(language):
        pytest.skip(f"there is no {' and no '.join(absent)}")
    solution, good, wrong, empty = ADD[language]
    proof = prove(Case(language, solution, good), SETTINGS, sandbox)
    assert proof.reason == "", proof
    assert proof.details["mutants"] >= 1
    assert reason(Case(language, solution, wrong), sandbox) == "fails its tests"
    assert reason(Case(language, solution, empty), sandbox, mutants=1) == "tests notice no mutant"


def test_a_javascript_assertion_on_the_console_fails_its_program(sandbox):
    if missing("javascript"):
        pytest.skip("there is no node")
    tests = "const test = () => { console.assert(add(2, 3) === %d, 'sum') }\ntest()"
    solution = ADD["javascript"][0]
    assert reason(Case("javascript", solution, tests % 5), sandbox) == ""
    assert reason(Case("javascript", solution, tests % 6), sandbox) == "fails its tests"


@pytest.mark.parametrize(
    ("solution", "tests", "expected"),
    [
        ("def f(x): return x", "", "no tests"),
        ("def f(x): return x", "while True: pass", "over time"),
        ("def f(x): return x", "print('x' * 2_000_000)", "too much output"),
        ("def f(x): return x", "assert f(1) ==", "does not compile"),
        ("import no_such_module", "assert True", "module not there"),
        ("f = g = print", "f(1)", "no mutant"),
        ("def f(x): return 2 * x", "import sys\nif f(1) != 2: sys.exit(1)", ""),
    ],
)
def test_reasons(sandbox, solution, tests, expected):
    assert reason(Case("python", solution, tests), sandbox, cpu_seconds=2.0) == expected


@pytest.mark.parametrize(
    "tests",
    [
        "def test_double():\n    assert double(4) == {}",
        "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): self.assertEqual(double(4), {})",
        "def check(candidate):\n    assert candidate(4) == {}",
        "def check(candidate):\n    assert candidate(4) == {}\ncheck(double)",
    ],
)
def test_python_tests_that_are_functions_or_classes_are_called(sandbox, tests):
    solution = "def test_of_mine(needed): raise Exception\ndef double(x):\n    return 2 * x"
    assert reason(Case("Python", solution, tests.format(8), "double"), sandbox) == ""
    assert reason(Case("py", solution, tests.format(9), "double"), sandbox) == "fails its tests"


def test_the_same_case_gives_the_same_proof(sandbox):
    case = Case(
        "python", "def f(x):\n    y = x + 1\n    if y > 3:\n        return y * 2\n    return y", "assert f(5) == 12"
    )
    assert prove(case, SETTINGS, sandbox) == prove(case, SETTINGS, sandbox)


def test_mutants_that_node_cannot_parse_do_not_count(sandbox):
    if missing("javascript"):
        pytest.skip("there is no node")
    solution = "function f(x) { if (x) return 1; else return 1; }"  # a return before an else is the only kind
    proof = prove(Case("javascript", solution, "f(0);"), SETTINGS.model_copy(update={"mutants": 1}), sandbox)
    assert proof.reason == "tests notice no mutant"
    assert reason(Case("javascript", "function f(x) {", "f(0);"), sandbox) == "does not compile"


def test_mutants_are_made_only_where_they_are_asked_for(sandbox):
    assert reason(Case("python", "def f(x): return x", "f(1)"), sandbox, mutants=0) == ""


def test_what_cannot_be_run_here(sandbox, monkeypatch):
    assert prove(Case("cobol", "x", "y"), SETTINGS, sandbox)[::2] == ("language cobol", True)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert prove(Case("js", "x", "y"), SETTINGS, sandbox)[::2] == ("no node", True)


def test_modules_of_a_folder_can_be_imported(tmp_path, sandbox):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "extra.py").write_text("def twice(x): return 2 * x")
    settings = SETTINGS.model_copy(update={"modules": {"python": str(folder)}})
    case = Case("python", "from extra import twice\ndef f(x): return twice(x)", "assert f(2) == 4")
    with open_sandbox(settings, allowed=True, workers=1) as opened:
        assert prove(case, settings, opened).reason == ""


def test_nothing_is_executed_unless_that_is_allowed():
    with pytest.raises(MftcoderError, match="--allow-execution"), open_sandbox(SETTINGS, allowed=False, workers=1):
        pass
