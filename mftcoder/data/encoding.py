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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mftcoder.data.chat import Encoded, encode
from mftcoder.data.holdout import group_hash
from mftcoder.data.records import Conversation, Text
from mftcoder.data.shards import Samples
from mftcoder.errors import RunError

OVER_LONG = "longer than a row"
NOTHING_SUPERVISED = "no supervised token"
NOTHING_LEFT = "no supervised token left after truncation"
_RECORDS_PER_CHUNK = 512
_CHARACTERS_PER_CHUNK = 4_000_000

Record = Conversation | Text


class EncodedRecords(NamedTuple):
    """The N samples made from some records, and what happened on the way."""

    samples: Samples  # ids count all samples, dropped ones too, so that they name a sample's place in the input
    groups: NDArray[np.uint64]  # [N] hashes; equal for samples that must stay in one split
    named: NDArray[np.bool_]  # [N] whether the record itself named its group
    counts: Counter[str]  # records, samples (with dropped ones), texts_split, truncated, truncated_tokens
    dropped: Counter[str]  # reason -> samples


@dataclass(frozen=True)
class Encoder:
    """Encodes records and fits them into rows."""

    tokenizer: PreTrainedTokenizerFast
    sequence_length: int
    over_long: Literal["truncate", "drop"]
    seed: int  # of the groups' hashes

    def __call__(self, records: list[Record]) -> EncodedRecords:
        """The samples of ``records``; raises what ``chat.encode`` raises."""
        counts: Counter[str] = Counter(records=len(records))
        dropped: Counter[str] = Counter()
        kept: list[Encoded] = []
        ids: list[int] = []
        groups: list[int] = []
        named: list[bool] = []
        for record, encoded in zip(records, encode(records, self.tokenizer), strict=True):
            for sample in self._fitted(record, encoded, counts):
                reason = self._fault(record, encoded, sample)
                if reason:
                    dropped[reason] += 1
                else:
                    kept.append(sample)
                    ids.append(counts["samples"])
                    groups.append(group_hash(_group(record), self.seed))
                    named.append(record.group is not None)
                counts["samples"] += 1
        hashes, are_named = np.array(groups, np.uint64), np.array(named, np.bool_)
        return EncodedRecords(_flat(kept, ids), hashes, are_named, counts, dropped)

    def _fitted(self, record: Record, encoded: Encoded, counts: Counter[str]) -> list[Encoded]:
        """``encoded`` cut to the length of a row: texts into pieces, conversations at the end unless to be dropped."""
        length, limit = len(encoded.input_ids), self.sequence_length
        if length <= limit:
            return [encoded]
        if isinstance(record, Text):
            counts["texts_split"] += 1
            pieces = [encoded.input_ids[start : start + limit] for start in range(0, length, limit)]
            return [Encoded(piece, np.arange(len(piece)) > 0) for piece in pieces]
        if self.over_long == "drop":
            return [encoded]
        counts["truncated"] += 1
        counts["truncated_tokens"] += length - limit
        return [Encoded(encoded.input_ids[:limit], encoded.supervised[:limit])]

    def _fault(self, record: Record, encoded: Encoded, sample: Encoded) -> str | None:
        """Why ``sample``, made from ``encoded``, cannot be trained on."""
        if len(sample.input_ids) > self.sequence_length:
            return OVER_LONG
        if sample.supervised.any():
            return None
        return NOTHING_LEFT if isinstance(record, Conversation) and encoded.supervised.any() else NOTHING_SUPERVISED


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
    )


def joined(chunks: Iterable[EncodedRecords]) -> EncodedRecords:
    """The chunks as one, with samples numbered through."""
    parts: list[Samples] = []
    groups: list[NDArray[np.uint64]] = []
    named: list[NDArray[np.bool_]] = []
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for chunk in chunks:
        parts.append(chunk.samples._replace(ids=chunk.samples.ids + counts["samples"]))
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


@contextmanager
def encoding(encoder: Encoder, num_workers: int) -> Iterator[Callable[[Iterable[Record]], Iterator[EncodedRecords]]]:
    """A function that encodes records chunk by chunk, in order, in ``num_workers`` processes (1: in this one)."""
    if num_workers == 1:
        yield lambda records: map(encoder, _chunks(records))
        return
    # Not fork: the tokenizer's threads, once started, would leave a forked child waiting for ever.
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (encoder,)) as pool:

        def encode_in_pool(records: Iterable[Record]) -> Iterator[EncodedRecords]:
            pending: deque[Future[EncodedRecords]] = deque()
            try:
                for chunk in _chunks(records):
                    pending.append(pool.submit(_encode_in_worker, chunk))
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


def _encode_in_worker(records: list[Record]) -> EncodedRecords:
    return _worker_encoder(records)


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
