"""One source file -> what the tasks can take from it; pure but for reading it, so that processes share the work."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mftcoder.construct import trees
from mftcoder.construct.code_tasks import CODE_TASKS, Record, question, size
from mftcoder.construct.folders import Checkout
from mftcoder.construct.functions import (
    Function,
    FunctionNode,
    LeftOut,
    function_at,
    function_nodes,
    parse,
    read_source,
)
from mftcoder.construct.languages import LANGUAGES, is_test, language_of
from mftcoder.construct.licences import UNKNOWN, folder_licence, header_licence, is_allowed
from mftcoder.construct.seen import Digest, bands, digest
from mftcoder.construct.sensitive import secret, without_emails
from mftcoder.construct.unit_tests import tested_file, tests_in, unit_test

UNIT_TEST = "unit-test"


@dataclass(frozen=True)
class Root:
    """A folder that is read."""

    path: Path
    checkout: Checkout | None = None
    licence: str | None = None  # of all its files, whatever lies there

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def top(self) -> Path:
        """The last folder, upwards, in which a licence counts."""
        return self.checkout.top if self.checkout else self.path.resolve()


@dataclass(frozen=True)
class Settings:
    """What is made of a file."""

    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    licences: frozenset[str]
    max_chars: int
    similarity: float | None
    seed: int


@dataclass(frozen=True)
class Made:
    """A record as a line of JSON, and the digest of what only one record may ask."""

    line: bytes
    asked: Digest


Outcome = Made | str  # or the reason why there is none


@dataclass(frozen=True)
class Taken:
    """A function that was taken, and what came of it in every task."""

    digest: Digest
    outcomes: dict[str, Outcome]


@dataclass
class Harvest:
    """What came of a file; ``left_out`` is the reason why nothing did."""

    root: int
    path: str
    left_out: str | None = None
    language: str = ""
    licence: str | None = None
    emails: int = 0
    digest: Digest = 0
    bands: list[int] = field(default_factory=list)
    functions: list[Taken | str] = field(default_factory=list)
    unit_tests: list[Outcome] = field(default_factory=list)
    text: bytes | None = None


@dataclass(frozen=True)
class _File:
    """A file's text and what all its records say of it."""

    text: str
    key: str
    licence: str | None
    emails: int
    root: Root
    path: str
    is_test: bool

    def line(self, record: Record) -> bytes:
        """The record with its provenance, as JSON."""
        source = record.get("source") or {"root": self.root.name, "path": self.path, "language": self.key}
        source = source | {"licence": self.licence or UNKNOWN}
        if self.root.checkout and self.root.checkout.commit:
            source["commit"] = self.root.checkout.commit
        return json.dumps(record | {"source": source}, ensure_ascii=False).encode() + b"\n"


def harvest(number: int, root: Root, path: str, settings: Settings) -> Harvest:
    """What the tasks can take from a file of the root of this number."""
    found = Harvest(number, path)
    try:
        file = _read(root, path, settings)
        found.language, found.licence, found.emails = file.key, file.licence, file.emails
        if UNIT_TEST in settings.tasks and (file.is_test or file.key in ("rust", "cpp")):
            found.unit_tests = list(_unit_tests(file, settings))
        if file.is_test:
            raise LeftOut("test")
        found.functions = list(_taken(file, settings))
        found.digest = digest(file.text, "file")
        if settings.similarity is not None:
            found.bands = bands(file.text, settings.similarity)
        if "text" in settings.tasks:
            found.text = file.line({"text": file.text, "group": path})
    except LeftOut as reason:
        found.left_out = str(reason)
    return found


def read_again(root: Root, path: str) -> str:
    """The text of a file that was read before, as it was compared."""
    return without_emails(read_source(root.path, path))[0]


def _read(root: Root, path: str, settings: Settings) -> _File:
    key = language_of(path, settings.languages)
    assert key is not None
    tests = is_test(path, key)
    if tests and UNIT_TEST not in settings.tasks:
        raise LeftOut("test")
    text = read_source(root.path, path, tests=True)
    licence = header_licence(text) or root.licence or folder_licence((root.path / path).resolve().parent, root.top)
    if not is_allowed(licence, settings.licences):
        raise LeftOut(f"licence {licence or UNKNOWN}")
    if kind := secret(text):
        raise LeftOut(f"secret: {kind}")
    text, emails = without_emails(text)
    return _File(text, key, licence, emails, root, path, tests)


def _functions(file: _File) -> Iterator[Callable[[], Function]]:
    """Of every function what makes it or raises LeftOut. Raises LeftOut where the file cannot be parsed."""
    name = file.root.name
    if file.key != "python":
        source = trees.Source(file.text, file.key)
        if source.root.has_error and LANGUAGES[file.key].exact:
            raise LeftOut("syntax error")
        yield from trees.functions(source, name, file.path)
        return
    tree = parse(file.text)
    if tree is None:
        raise LeftOut("syntax error")
    lines = file.text.split("\n")
    for node, nested in function_nodes(tree):

        def make(node: FunctionNode = node, nested: bool = nested) -> Function:
            if nested:
                raise LeftOut("inside another function")
            return function_at(node, lines, name, file.path)

        yield make


def _taken(file: _File, settings: Settings) -> Iterator[Taken | str]:
    for make in _functions(file):
        try:
            function = make()
        except LeftOut as reason:
            yield str(reason)
            continue
        tasks = [task for task in settings.tasks if task in CODE_TASKS]
        yield Taken(
            digest(function.code, "function"), {task: _record(file, function, task, settings) for task in tasks}
        )


def _record(file: _File, function: Function, task: str, settings: Settings) -> Outcome:
    rng = Random(f"{settings.seed} {task} {function.path} {function.line}")
    return _outcome(lambda: CODE_TASKS[task](function, rng), file, task, settings)


def _outcome(make: Callable[[], Record], file: _File, task: str, settings: Settings) -> Outcome:
    try:
        record = make()
    except LeftOut as reason:
        return str(reason)
    if size(record) > settings.max_chars:
        return "too long"
    return Made(file.line(record), digest(question(record), task))


def _unit_tests(file: _File, settings: Settings) -> Iterator[Outcome]:
    tests = list(tests_in(file.text, file.key, file.root.name, file.path))
    if not tests:
        return
    try:
        tested = list(_tested(file, settings))
    except LeftOut as reason:
        yield from [str(reason)] * len(tests)
        return
    for make in tests:
        yield _outcome(lambda make=make: unit_test(make(), tested), file, UNIT_TEST, settings)  # type: ignore[misc]


def _tested(file: _File, settings: Settings) -> Iterator[Function]:
    """The functions of the file that a file's tests are about: its own, or another's."""
    if file.is_test or file.key == "cpp":
        path = tested_file(file.root.path, file.path, file.key)
        if path is None:
            raise LeftOut("tested file not found")
        try:
            file = _read(file.root, path, settings)
        except LeftOut as reason:
            raise LeftOut(f"tested file: {reason}") from None
    for make in _functions(file):
        try:
            yield make()
        except LeftOut:
            continue


def counted(harvests: Counter[str]) -> dict[str, Any]:
    """A counter as JSON, the largest first."""
    return dict(sorted(harvests.items(), key=lambda item: (-item[1], item[0])))
