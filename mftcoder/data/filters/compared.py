"""What of a record is compared: with other records, and with the items of benchmarks."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from mftcoder.config.schema import BenchmarkFiles, Filters
from mftcoder.data.filters.benchmarks import FIELDS, Benchmarks, Item, item_text
from mftcoder.data.reading import read_file
from mftcoder.data.records import Conversation, Message, Text
from mftcoder.data.sources import named_files
from mftcoder.errors import MftcoderError

Record = Conversation | Text


class BenchmarkTests(Protocol):
    """Which benchmarks to look for, and how: a part of ``Filters``."""

    @property
    def benchmarks(self) -> list[BenchmarkFiles]: ...
    @property
    def bleu(self) -> float | None: ...
    @property
    def ngram_words(self) -> int | None: ...


def read_benchmarks(tests: BenchmarkTests, where: str) -> Benchmarks:
    """The items of all benchmarks, which stand at ``where`` in the config.

    Raises MftcoderError if one has none, or none with the field asked for.
    """
    items = []
    for number, files in enumerate(tests.benchmarks):
        place = f"{where}[{number}]"
        for file in named_files(files.path, place):
            items += [Item(at, text, number) for at, text in _item_texts(file, files.field, place)]
    return Benchmarks(items, bleu=tests.bleu, ngram_words=tests.ngram_words)


def _item_texts(file: Path, field: str | None, where: str) -> Iterator[tuple[str, str]]:
    """The places and texts of a benchmark's items."""
    for place, record in read_file(file):
        text = item_text(record, field)
        if text is None:
            wanted = f'a string "{field}"' if field else f"one of {', '.join(FIELDS)}"
            raise MftcoderError(f"{place}: must have {wanted}; found keys {', '.join(record)}. Set field of {where}.")
        yield place, text


def _compared(record: Record, compare: str) -> list[Message]:
    """The messages of a conversation that are compared for duplicates; system messages belong to the prompt."""
    if isinstance(record, Text):
        return [Message("text", record.text, supervised=True)]
    return [one for one in record.messages if compare == "all" or (one.role == "assistant") == (compare == "answer")]


def compared_texts(record: Record, compare: str) -> list[str]:
    """What is compared, without system messages: those that many samples share would make them all alike."""
    return [_text(message) for message in _compared(record, compare) if message.role != "system"]


def _text(message: Message) -> str:
    fields = json.dumps(message.fields, sort_keys=True, ensure_ascii=False, default=str) if message.fields else ""
    return message.content + fields


def content_hash(record: Record, filters: Filters) -> int:
    """64 bits, equal for records that are exact duplicates."""
    turns = [(message.role, _text(message)) for message in _compared(record, filters.compare)]
    if "whitespace" in filters.ignore:
        turns = [(role, " ".join(text.split())) for role, text in turns]
    content = json.dumps(turns, ensure_ascii=False)
    if "case" in filters.ignore:
        content = content.lower()
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest())
