"""One defect put into a function: small edits of its text that keep it parseable and change its tree.

Mutation operators after DeMillo, Lipton and Sayward ("Hints on Test Data Selection", 1978): the mistakes of competent
programmers. What fits a function is a matter of its language; what is taken is drawn in the same way for all.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from mftcoder.construct import python_defects, tree_defects
from mftcoder.construct.functions import Function, LeftOut, PythonFunction


@dataclass(frozen=True)
class Defect:
    """``code``: the function with the defect; ``line``: where it begins, counted from 1 in ``code``."""

    kind: str
    line: int
    code: str

    @property
    def lines(self) -> list[str]:
        return self.code.split("\n")


def defect(function: Function, rng: Random) -> Defect:
    """One defect: first its kind is drawn among those that the function allows, then its place.

    Raises LeftOut where no kind fits.
    """
    operators: Any = python_defects if isinstance(function, PythonFunction) else tree_defects
    edits = operators.edits(function)
    for kind in rng.sample(list(edits), len(edits)):
        for edit in rng.sample(edits[kind], len(edits[kind])):
            if made := operators.edited(function, edit):
                line, code = made
                return Defect(kind, line, code)
    raise LeftOut("no place for a defect")
