"""Mutants: different code, in one place, that can still be run."""

import ast
from random import Random

import pytest

from mftcoder.construct.mutants import mutants

PYTHON = '''\
import math

def area(r, names):
    """Area of 3 circles."""
    total = 0
    for name in names:
        if r > 1 and name:
            total += math.pi * r ** 2
        log(name)
    return total
'''
JAVA = """\
import java.util.*;
class A {  // a < b == true
    static int f(List<Integer> xs, int n) {
        String s = "1 < 2 && true";
        for (int i = 0; i < n; i++) if (xs.get(i) == 3 || n > 7) return i + 1;
        return -1;
    }
}
"""


def kinds(language, code):
    return {kind for kind, _ in mutants(language, code, Random(0))}


def test_python_is_made_wrong_in_every_way_and_parses():
    made = mutants("python", PYTHON, Random(0))
    assert {kind for kind, _ in made} == {"return", "comparison", "operator", "logic", "constant", "statement"}
    plain = ast.dump(ast.parse(PYTHON))
    trees = [ast.dump(ast.parse(code)) for _, code in made]
    assert plain not in trees
    assert len(set(trees)) == len(trees)
    assert ["return None" in code for kind, code in made if kind == "return"] == [True]
    assert all('"""Area of 3 circles."""' in code for _, code in made)  # what is no code stays
    assert all(code.startswith("import math") for _, code in made)


def test_kinds_take_turns_and_the_order_is_drawn():
    first = mutants("python", PYTHON, Random(0))
    assert len({kind for kind, _ in first[:6]}) == 6
    assert first == mutants("python", PYTHON, Random(0))
    assert first != mutants("python", PYTHON, Random(1))
    assert sorted(first) == sorted(mutants("python", PYTHON, Random(1)))


def test_other_languages_are_made_wrong_outside_of_comments_strings_and_types():
    made = [code for _, code in mutants("java", JAVA, Random(0))]
    assert kinds("java", JAVA) == {"return", "comparison", "operator", "logic", "constant"}
    for kept in ("// a < b == true", '"1 < 2 && true"', "List<Integer>", "import java.util.*;"):
        assert all(kept in code for code in made)
    for changed in ("i >= n;", "== 3 &&", "n <= 7", "xs.get(i) != 3", "return i - 1;", "return (-1) + 1;", "n > 8"):
        assert sum(changed in code for code in made) >= 1, changed
    assert all(sum(a != b for a, b in zip(code.splitlines(), JAVA.splitlines(), strict=True)) == 1 for code in made)


@pytest.mark.parametrize(
    ("language", "code", "instead"),
    [
        ("javascript", "function f(x) { return x + 1; }", "{ return undefined; return x + 1; }"),
        ("javascript", "const f = x => { return x.at('a'); }", "{ return undefined; return x.at('a'); }"),
        ("cpp", "bool f(int x) { return x > 1; }", "{ return !(x > 1); }"),
        ("go", "func f(x int) int {\n\treturn x\n}", "{\n\treturn (x) + 1\n}"),
    ],
)
def test_returns_of_other_languages(language, code, instead):
    assert any(instead in mutant for _, mutant in mutants(language, code, Random(0)))


@pytest.mark.parametrize(
    ("language", "code"), [("python", "def f(:"), ("python", "import os\n"), ("java", "class A {}")]
)
def test_nothing_to_make_wrong(language, code):
    assert mutants(language, code, Random(0)) == []
