"""All records of a task -> its samples as flat arrays, in one process or in several; the result is the same."""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Task
from mftcoder.data.chat import encode
from mftcoder.data.fitting import Encoded
from mftcoder.data.holdout import group_hash
from mftcoder.data.records import Conversation, Text
from mftcoder.data.shards import Samples
from mftcoder.errors import RunError

NOTHING_SUPERVISED = "no supervised token"
_RECORDS_PER_CHUNK = 512
_CHARACTERS_PER_CHUNK = 4_000_000

Record = Conversation | Text


class EncodedRecords(NamedTuple):
    """The N samples made from some records of a task, and what happened on the way."""

    samples: Samples  # of any length; ids count all records, also those dropped, so they name a sample's place in them
    groups: NDArray[np.uint64]  # [N] hashes; equal for samples that must stay in one split
    named: NDArray[np.bool_]  # [N] whether the record itself named its group
    counts: Counter[str]  # records
    dropped: Counter[str]  # reason -> samples


@dataclass(frozen=True)
class Encoder:
    """Encodes the records of tasks."""

    tokenizer: PreTrainedTokenizerFast
    seed: int  # of the groups' hashes

    def __call__(self, records: list[Record], task: Task) -> EncodedRecords:
        """The samples of ``records`` of ``task``, of any length; raises what ``chat.encode`` raises."""
        encoded = encode(records, self.tokenizer)
        kept = [index for index, sample in enumerate(encoded) if sample.supervised.any()]
        return EncodedRecords(
            _flat([encoded[index] for index in kept], kept),
            np.array([group_hash(_group(records[index]), self.seed) for index in kept], np.uint64),
            np.array([records[index].group is not None for index in kept], np.bool_),
            Counter(records=len(records)),
            Counter({NOTHING_SUPERVISED: len(records) - len(kept)}) if len(kept) < len(records) else Counter(),
        )


def _group(record: Record) -> str:
    """What must not be divided: the record's group, or else all records of the same content."""
    if record.group is not None:
        return record.group
    if isinstance(record, Text):
        return f"text:{record.text}"
    turns = [[message.role, message.content, dict(message.fields)] for message in record.messages]
    return "conversation:" + json.dumps(turns, sort_keys=True, default=str)


def _flat(kept: list[Encoded], ids: list[int]) -> Samples:
    return Samples(
        np.concatenate([np.zeros(0, np.int32), *(sample.input_ids for sample in kept)]),
        np.concatenate([np.zeros(0, np.bool_), *(sample.supervised for sample in kept)]),
        np.array([len(sample.input_ids) for sample in kept], np.int32),
        np.array(ids, np.int64),
        np.concatenate([np.zeros(0, np.int32), *(sample.borders for sample in kept)]),
        np.array([len(sample.borders) for sample in kept], np.int32),
    )


def joined(chunks: Iterable[EncodedRecords]) -> EncodedRecords:
    """The chunks as one, with samples numbered through."""
    parts: list[Samples] = []
    groups: list[NDArray[np.uint64]] = []
    named: list[NDArray[np.bool_]] = []
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for chunk in chunks:
        parts.append(chunk.samples._replace(ids=chunk.samples.ids + counts["records"]))
        groups.append(chunk.groups)
        named.append(chunk.named)
        counts += chunk.counts
        dropped += chunk.dropped
    return EncodedRecords(
        Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True))),
        np.concatenate(groups),
        np.concatenate(named),
        counts,
        dropped,
    )


EncodeAll = Callable[[Iterable[Record], Task], Iterator[EncodedRecords]]


@contextmanager
def encoding(encoder: Encoder, num_workers: int) -> Iterator[EncodeAll]:
    """A function that encodes a task's records chunk by chunk, in order, in ``num_workers`` processes (1: this one)."""
    if num_workers == 1:
        yield lambda records, task: (encoder(chunk, task) for chunk in _chunks(records))
        return
    # Not fork: the tokenizer's threads, once started, would leave a forked child waiting for ever.
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (encoder,)) as pool:

        def encode_in_pool(records: Iterable[Record], task: Task) -> Iterator[EncodedRecords]:
            pending: deque[Future[EncodedRecords]] = deque()
            try:
                for chunk in _chunks(records):
                    pending.append(pool.submit(_encode_in_worker, chunk, task))
                    if len(pending) > 2 * num_workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool as error:
                raise RunError("a process that tokenizes was killed; is memory short? Use fewer workers.") from error

        yield encode_in_pool


_worker_encoder: Encoder


def _start_worker(encoder: Encoder) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process: the processes share the cores
    _worker_encoder = encoder


def _encode_in_worker(records: list[Record], task: Task) -> EncodedRecords:
    return _worker_encoder(records, task)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
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
