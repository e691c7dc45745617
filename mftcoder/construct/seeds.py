"""What generation starts from: instructions, topics, pieces of code."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from mftcoder.config.problems import nearest
from mftcoder.construct.functions import LeftOut, function_at, function_nodes, parse, read_source, source_files
from mftcoder.construct.output import Tally
from mftcoder.construct.parsing import canonical
from mftcoder.data.reading import read_file
from mftcoder.data.records import RECORD_FORMATS, Conversation
from mftcoder.data.sources import named_files
from mftcoder.errors import MftcoderError

Item = TypeVar("Item")

_PACKAGE = files("mftcoder.construct")


class Seed(NamedTuple):
    """An instruction to begin with."""

    id: str  # the record's own, or else file name and line
    instruction: str


class Topic(NamedTuple):
    """A subject to write about."""

    id: str  # list and topic
    text: str


class Piece(NamedTuple):
    """A piece of existing code."""

    id: str
    code: str
    language: str  # in lower case
    group: str


def read_seeds(paths: str | list[str] | None) -> list[Seed]:
    """The instructions in the files, each once; our own by default. Raises MftcoderError where a record has none."""
    if paths is None:
        lines = (_PACKAGE / "seeds" / "code.txt").read_text(encoding="utf-8").splitlines()
        return [Seed(f"code/{number}", line) for number, line in enumerate(filter(None, lines), 1)]
    seeds: dict[str, Seed] = {}
    for file in named_files(paths, "generator.seeds"):
        for where, record in read_file(file):
            instruction = _instruction(record, where)
            name = record.get("id")
            own = str(name) if isinstance(name, str | int) else f"{file.name}{where.removeprefix(str(file))}"
            seeds.setdefault(instruction, Seed(own, instruction))
    return list(seeds.values())


def topic_lists() -> dict[str, list[str]]:
    """The ready-made topics, by list."""
    lists = sorted((entry.name, entry) for entry in (_PACKAGE / "topics").iterdir() if entry.name.endswith(".txt"))
    return {name.removesuffix(".txt"): _lines(entry.read_text(encoding="utf-8")) for name, entry in lists}


def read_topics(names: Sequence[str]) -> list[Topic]:
    """The topics of ready-made lists and of text files with one a line; a text that comes twice is taken once.

    Raises MftcoderError for what is neither.
    """
    ready = topic_lists()
    topics: dict[str, Topic] = {}
    for name in names:
        lines = ready.get(name)
        if lines is None:
            if not Path(name).is_file():
                hint = nearest(name, list(ready)) or f". Choose from {', '.join(ready)}, or name a text file."
                raise MftcoderError(f'generator.topics: there is no list and no file "{name}"{hint}')
            try:
                lines = _lines(Path(name).read_text(encoding="utf-8-sig"))
            except (OSError, UnicodeDecodeError) as error:
                raise MftcoderError(f"generator.topics: {name} cannot be read as UTF-8 text: {error}.") from None
        for line in lines:
            topics.setdefault(line, Topic(f"{Path(name).stem}/{line}", line))
    if not topics:
        raise MftcoderError(f"generator.topics: {', '.join(names)} hold no topic. Write one a line.")
    return list(topics.values())


def read_pieces(roots: Sequence[str], max_chars: int, tally: Tally) -> Iterator[Piece]:
    """The functions of Python source under ``roots``; why others are left out is counted."""

    def take(node: Any, nested: bool, lines: list[str], root: Path, path: str) -> Piece:
        if nested:
            raise LeftOut("inside another function")
        function = function_at(node, lines, root.resolve().name, path)
        if len(function.code) > max_chars:
            raise LeftOut("over max_piece_chars")
        tally.once(function.code)
        return Piece(f"{path}:{function.line}", function.code, "python", path)

    for root in map(Path, roots):
        for path in source_files(root):
            try:
                text = read_source(root, path)
            except LeftOut:
                continue
            tree = parse(text)
            for node, nested in function_nodes(tree) if tree else ():
                piece = tally.attempt(take, node, nested, text.split("\n"), root, path)
                if piece is not None:
                    yield piece


def read_snippets(paths: str | list[str], max_chars: int, tally: Tally) -> Iterator[Piece]:
    """Records with ``code`` and ``language``. Raises MftcoderError where one lacks them."""

    def take(piece: Piece) -> Piece:
        if len(piece.code) > max_chars:
            raise LeftOut("over max_piece_chars")
        tally.once(piece.code)
        return piece

    for file in named_files(paths, "generator.snippets"):
        for where, record in read_file(file):
            code, language = record.get("code"), record.get("language")
            if not isinstance(code, str) or not isinstance(language, str) or not code.strip():
                raise MftcoderError(f'{where}: must have "code" and "language"; found keys {", ".join(record)}.')
            place = f"{file.name}{where.removeprefix(str(file))}"
            path = record.get("path")
            piece = tally.attempt(
                take, Piece(place, code, canonical(language), path if isinstance(path, str) else place)
            )
            if piece is not None:
                yield piece


def drawn(items: Sequence[Item], most: int | None, rng: Random) -> list[Item]:
    """All items, or ``most`` of them drawn, in their order."""
    if most is None or most >= len(items):
        return list(items)
    return [items[number] for number in sorted(rng.sample(range(len(items)), most))]


def _instruction(record: dict[str, Any], where: str) -> str:
    """The first thing that a user says in a record of any format."""
    if isinstance(record.get("instruction"), str) and "output" not in record:
        text = record["instruction"]
    else:
        parse_record = next((row.parse for row in RECORD_FORMATS.values() if row.detect(record)), None)
        parsed = parse_record(record, where) if parse_record else None
        messages = parsed.messages if isinstance(parsed, Conversation) else ()
        text = next((message.content for message in messages if message.role == "user"), "")
    if not text.strip():
        raise MftcoderError(
            f'{where}: holds no instruction; found keys {", ".join(record)}. Give "instruction", or a conversation.'
        )
    return text.strip()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
