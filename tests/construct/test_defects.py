"""Defects against mutants enumerated by hand."""

import ast
import textwrap
from random import Random

import pytest

from mftcoder.construct.defects import defect
from mftcoder.construct.functions import Function, LeftOut, function_at
from mftcoder.construct.python_defects import DEFECTS


def function(code: str) -> Function:
    code = textwrap.dedent(code).strip("\n")
    node = ast.parse(code).body[0]
    assert isinstance(node, ast.FunctionDef)
    return function_at(node, code.split("\n"), "root", "file.py")


def mutants(code: str) -> dict[str, set[str]]:
    """The changed lines of every defect that 300 seeds find, by kind; asserts that only the named line changed."""
    whole = function(code)
    found: dict[str, set[str]] = {}
    for seed in range(300):
        broken = defect(whole, Random(seed))
        [changed] = [n for n, pair in enumerate(zip(whole.lines, broken.lines, strict=True), 1) if pair[0] != pair[1]]
        assert changed == broken.line
        found.setdefault(broken.kind, set()).add(broken.lines[changed - 1].strip())
    return found


CASES = {
    "comparison": (
        """
        def f():
            g()
            g()
            return 7 < h() is not None
        """,
        {
            "comparison": {"return 7 <= h() is not None", "return 7 < h() is None"},
            "off by one": {"return 6 < h() is not None", "return 8 < h() is not None"},
            "missing return": {"7 < h() is not None"},
        },
    ),
    "precedence and a comment": (
        """
        def f():
            g()
            h()
            self.x = (g()  and  h()) or k()
        """,
        {"and/or": {"self.x = (g()  or  h()) or k()", "self.x = (g()  and  h()) and k()"}},
    ),
    "plus/minus": (
        """
        def f():
            g()
            h()
            self.x = "né" + g() + h() - k()
        """,
        # "né" + g() is a concatenation; columns after "é" count bytes
        {"plus/minus": {'self.x = "né" + g() - h() - k()', 'self.x = "né" + g() + h() + k()'}},
    ),
    "off by one": (
        """
        def f():
            g(3)
            sleep(60)
            self.x = g()[0:2], True, range(5), 0x10 > g()
        """,
        {
            "off by one": {
                "self.x = g()[1:2], True, range(5), 0x10 > g()",
                "self.x = g()[0:3], True, range(5), 0x10 > g()",
                "self.x = g()[0:1], True, range(5), 0x10 > g()",
                "self.x = g()[0:2], True, range(6), 0x10 > g()",
                "self.x = g()[0:2], True, range(4), 0x10 > g()",
            },
            "comparison": {"self.x = g()[0:2], True, range(5), 0x10 >= g()"},
        },
    ),
    "wrong variable": (
        """
        def f(self, a):
            b = g(a)
            c = [d for d in h()]
            return self.x(b)
        """,
        # b and c are not bound yet where a is read; self is never taken; d lives in the comprehension only
        {
            "wrong variable": {"return self.x(a)", "return self.x(c)"},
            "missing return": {"self.x(b)"},
        },
    ),
    "missing not": (
        """
        def f():
            g()
            h()
            self.x = not(g()), f"{not g()}"
        """,
        {"missing not": {'self.x = (g()), f"{not g()}"'}},
    ),
    "swapped arguments": (
        """
        def f():
            max(g(), h())
            g(*k(), h())
            g((h()), k(), x=1)
        """,
        {"swapped arguments": {"g((k()), h(), x=1)"}},
    ),
    "break/continue": (
        """
        def f():
            for self.x in g():
                h()
                if k():
                    break
            return None
        """,
        {"break/continue": {"continue"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_defects_found_are_exactly_those_enumerated_by_hand(case):
    code, expected = CASES[case]
    assert mutants(code) == expected


def test_every_kind_of_defect_has_a_case():
    assert {kind for _, expected in CASES.values() for kind in expected} == set(DEFECTS)


def test_swapping_equal_arguments_is_no_defect():
    with pytest.raises(LeftOut, match="no place for a defect"):
        defect(function("def f():\n    g()\n    h()\n    k(1, 1)"), Random(0))
