"""Records of a task -> its samples."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Config, Task
from mftcoder.data.chat import encode
from mftcoder.data.fim import rearranged
from mftcoder.data.fitting import Encoded
from mftcoder.data.holdout import group_hash
from mftcoder.data.reading import Refuse, stop
from mftcoder.data.records import Conversation, Text
from mftcoder.errors import MftcoderError

NOTHING_SUPERVISED = "no supervised token"
_RECORDS_PER_CHUNK = 16_384  # with 512 the tokenizer takes half as long again: memory that it freed is slow to reuse
_CHARACTERS_PER_CHUNK = 4_000_000  # some 150 MB while they are tokenized

_CANONICAL = json.JSONEncoder(sort_keys=True, default=str)

Record = Conversation | Text


class EncodedRecords(NamedTuple):
    """The N samples made from some records of a task, and what happened on the way."""

    samples: list[Encoded]  # of any length
    numbers: list[int]  # [N] of their records, counted from the first of these
    places: list[str]  # [N] of their records, as errors name them
    groups: NDArray[np.uint64]  # [N] hashes; equal for samples that must stay in one split
    named: NDArray[np.bool_]  # [N] whether the record itself named its group
    counts: Counter[str]  # records
    dropped: Counter[str]  # reason -> samples
    noted: Counter[str]  # what happened -> to how many records


@dataclass(frozen=True)
class Encoder:
    """Encodes the records of tasks."""

    tokenizer: PreTrainedTokenizerFast
    seed: int  # this and the next matter to fill-in-the-middle only
    sequence_length: int

    @classmethod
    def of(cls, config: Config, tokenizer: PreTrainedTokenizerFast) -> "Encoder":
        """That for the tasks of ``config``."""
        return cls(tokenizer, config.seed, config.data.sequence_length)

    @cached_property
    def num_ids(self) -> int:
        """Every token's id is below."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def __call__(self, records: list[Record], task: Task, refuse: Refuse = stop) -> EncodedRecords:
        """The samples of ``records`` of ``task``, of any length; what cannot be encoded goes to ``refuse``."""
        noted: Counter[str] = Counter()
        records, encoded = self._encode(records, task, refuse, noted)
        numbers = [number for number, sample in enumerate(encoded) if sample.supervised.any()]
        kept = [records[number] for number in numbers]
        num_dropped = len(records) - len(kept)
        return EncodedRecords(
            [encoded[number] for number in numbers],
            numbers,
            [record.where for record in kept],
            np.array([group_hash(group_of(record)) for record in kept], np.uint64),
            np.array([record.group is not None for record in kept], np.bool_),
            Counter(records=len(records)),
            Counter({NOTHING_SUPERVISED: num_dropped}) if num_dropped else Counter(),
            noted,
        )

    def _encode(
        self, records: list[Record], task: Task, refuse: Refuse, noted: Counter[str]
    ) -> tuple[list[Record], list[Encoded]]:
        """Those of ``records`` that can be encoded, and what they become."""
        noted_now: Counter[str] = Counter()
        try:
            filled = self._filled(records, task, noted_now)
            others = [record for number, record in enumerate(records) if number not in filled]
            rest = iter(encode(others, self.tokenizer, parse_control=task.control_tokens, noted=noted_now))
            encoded = [filled[number] if number in filled else next(rest) for number in range(len(records))]
        except MftcoderError as error:
            if len(records) == 1:
                refuse(error)
                return [], []
        else:
            noted.update(noted_now)
            return records, encoded
        middle = len(records) // 2  # the bad ones are found by halving
        halves = [self._encode(half, task, refuse, noted) for half in (records[:middle], records[middle:])]
        return [*halves[0][0], *halves[1][0]], [*halves[0][1], *halves[1][1]]

    def _filled(self, records: list[Record], task: Task, noted: Counter[str]) -> dict[int, Encoded]:
        """Those of ``records``, by index, that become fill-in-the-middle."""
        if task.fim is None:
            return {}
        texts = [record for record in records if isinstance(record, Text)]
        if len(texts) < len(records):
            where = next(record.where for record in records if isinstance(record, Conversation))
            raise MftcoderError(
                f'{where}: is a conversation; fim of task "{task.name}" is for plain text. Take it out.'
            )
        return rearranged(
            texts,
            task.fim,
            self.tokenizer,
            seed=self.seed,
            sequence_length=self.sequence_length,
            parse_control=task.control_tokens,
            noted=noted,
        )


def group_of(record: Record) -> str:
    """What must not be divided: the record's group, or else all records of the same content."""
    if record.group is not None:
        return record.group
    if isinstance(record, Text):
        return f"text:{record.text}"
    turns = [[message.role, message.content, dict(message.fields)] for message in record.messages]
    return "conversation:" + _CANONICAL.encode(turns)


def chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """``records`` in lists that are encoded at once."""
    chunk: list[Record] = []
    characters = 0
    for record in records:
        chunk.append(record)
        characters += len(record.text) if isinstance(record, Text) else sum(len(m.content) for m in record.messages)
        if len(chunk) == _RECORDS_PER_CHUNK or characters > _CHARACTERS_PER_CHUNK:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
