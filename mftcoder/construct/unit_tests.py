"""Unit tests paired with the functions that they call. Nothing that is read here is ever run.

Which file a test file is about is told by its name and folder (``tests/a/test_b.py``, ``src/test/…/BTest.java``,
``b_test.go``), which of its functions a test is about by the calls in the test and by the test's name.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path, PurePath

from mftcoder.construct.code_tasks import Record, asked, code_block
from mftcoder.construct.functions import Function, FunctionNode, LeftOut, function_at, function_nodes, parse
from mftcoder.construct.languages import LANGUAGES
from mftcoder.construct.trees import Node, Source, is_test, outermost
from mftcoder.construct.trees import function_at as tree_function_at

SHORTEST_NAME = 3  # of a function that is tested; shorter ones are called by chance
_TEST_FOLDER = re.compile(r"(.+_)?tests?|__tests__|spec|testing|unit|unittests?")
_CODE_FOLDERS = ("", "src", "lib", "main", "source", "include")
_MOST_FOLDERS = 60  # beside a folder of tests that are looked into
_CALL = re.compile(r"(\w+)\s*(?:<[^<>()]*>|::<[^<>()]*>)?\s*!?\(")


def tests_in(text: str, key: str, root: str, path: str) -> Iterator[Callable[[], Function]]:
    """Of every test function in a file, in source order, what makes it or raises LeftOut."""
    if key == "python":
        tree = parse(text)
        lines = text.split("\n")
        for node, nested in function_nodes(tree) if tree else ():
            if node.name.startswith("test") and not nested:

                def make(node: FunctionNode = node) -> Function:
                    return function_at(node, lines, root, path)

                yield make
        return
    source = Source(text, key)
    for node, outer in _test_nodes(source):

        def make_tree(node: Node = node, outer: Node = outer) -> Function:
            return tree_function_at(node, outer, source, root, path)

        yield make_tree


def _test_nodes(source: Source) -> Iterator[tuple[Node, Node]]:
    pending = [source.root]
    while pending:
        node = pending.pop()
        if source.key in ("javascript", "typescript", "tsx"):
            callback = _callback(node)
            if callback is not None:
                yield callback, node
                continue
        elif node.type in source.language.functions and node.child_by_field_name("body") is not None:
            outer = outermost(node, source)
            if _is_test(node, outer, source):
                yield node, outer
            continue
        pending += reversed(node.named_children)


def _is_test(node: Node, outer: Node, source: Source) -> bool:
    if source.key == "java":
        before = node.child(0)
        return before.type == "modifiers" and re.search(rb"@(Parameterized|Repeated)?Test\b", before.text) is not None
    if source.key == "go":
        name = node.child_by_field_name("name")
        return name is not None and re.match(rb"Test([^a-z]|$)", name.text) is not None
    if source.key == "rust":  # one whose own attributes say so, not a function beside the tests
        before = outer.prev_named_sibling
        while before is not None and before.type in source.language.attributes:
            if re.match(rb"#\[\s*(\w+::)*test\b", before.text):
                return True
            before = before.prev_named_sibling
        return False
    return is_test(outer, source)


def _callback(node: Node) -> Node | None:
    """The function that ``it("…", () => { … })`` or ``test(…)`` gives, of such a statement."""
    call = node.named_child(0) if node.type == "expression_statement" else None
    if call is None or call.type != "call_expression":
        return None
    called, given = call.child_by_field_name("function"), call.child_by_field_name("arguments")
    if called.text not in (b"it", b"test") or given is None or not given.named_children:
        return None
    last = given.named_children[-1]
    body = last.child_by_field_name("body") if last.type in ("arrow_function", "function_expression") else None
    return last if body is not None and body.type == "statement_block" else None


def tested_file(root: Path, path: str, key: str) -> str | None:
    """The file that a test file is about, by its name and where it lies; the nearest of several."""
    language = LANGUAGES[key]
    *folders, name = path.split("/")
    stem = PurePath(name).stem
    base = re.sub(language.tested, "", stem)
    suffixes = (*language.suffixes, ".h") if key == "cpp" else language.suffixes
    if key in ("javascript", "typescript", "tsx"):
        suffixes = tuple({PurePath(name).suffix: 0, ".ts": 0, ".tsx": 0, ".js": 0, ".jsx": 0, ".mjs": 0})
    wanted = [f"{start}{base}{suffix}" for start, suffix in product(("", "_"), suffixes)]
    for folder in dict.fromkeys(_folders(root, folders)):
        names = _names(root / folder)[0]
        for want in wanted:
            found = f"{folder}/{want}" if folder else want
            if want in names and found != path:
                return found
    return None


def _folders(root: Path, folders: list[str]) -> Iterator[str]:
    """Where the tested file may lie, the likeliest first."""
    yield "/".join(folders)
    yield "/".join("main" if folder == "test" else folder for folder in folders)
    bare = [folder for folder in folders if not _TEST_FOLDER.fullmatch(folder)]
    for depth in range(len(folders), -1, -1):
        above = folders[:depth]
        inside = _names(root / "/".join(above))[1][:_MOST_FOLDERS]
        for start in range(len(bare) + 1):
            rest = bare[start:]
            for between in (*_CODE_FOLDERS, *inside):
                yield "/".join(filter(None, [*above, between, *rest]))


@lru_cache(maxsize=4096)
def _names(folder: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of the files and of the folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:
        return frozenset(), ()
    folders = sorted(name for name, is_folder in found if is_folder and not name.startswith("."))
    return frozenset(name for name, is_folder in found if not is_folder), tuple(folders)


def unit_test(test: Function, tested: Sequence[Function]) -> Record:
    """A function -> a test of it. Raises LeftOut where the test calls none of those ``tested``, or several alike."""
    called = set(_CALL.findall(test.code))
    candidates = [one for one in tested if one.name in called and len(one.name) >= SHORTEST_NAME]
    if not candidates:
        raise LeftOut("calls no function of the tested file")
    title = _folded(test.code.split("{")[0] if test.language != "python" else test.name)
    named = [one for one in candidates if _folded(one.name) in title]
    longest = max((len(_folded(one.name)) for one in named), default=0)
    chosen = [one for one in named if len(_folded(one.name)) == longest] or candidates
    if len({one.name for one in chosen}) > 1:
        raise LeftOut("calls several functions")
    function = chosen[0]
    language = LANGUAGES[function.language]
    shown = code_block(function, function.lines)
    prompt = f"Write a unit test{_framework(test)} for this {language.name} function.\n\n{shown}"
    record = asked(function, prompt, code_block(test, test.lines))
    lines = {"line": test.line, "last_line": test.line + len(test.lines) - 1}
    return record | {"test": {"path": test.path} | lines}


def _framework(test: Function) -> str:
    match test.language:
        case "python":
            return " with unittest" if re.search(r"\bself\.assert", test.code) else " with pytest"
        case "java":
            return " with JUnit"
        case "cpp":
            return " with GoogleTest"
        case _:
            return ""


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
