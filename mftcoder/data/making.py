"""Making encoded parts: read, parse, encode, write, in one process or in several; the files are the same."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

from mftcoder.data.encoding import EncodedRecords, Encoder, chunks
from mftcoder.data.parts import EncodedPart, PartCounts, write_part
from mftcoder.data.reading import read_part
from mftcoder.data.records import parse_records
from mftcoder.errors import RunError

_SECONDS_BETWEEN_NEWS = 10.0

Tell = Callable[[str], None]


def make_parts(wanted: Sequence[EncodedPart], encoder: Encoder, num_workers: int, tell: Tell) -> dict[Path, PartCounts]:
    """Make the parts ``wanted`` in ``num_workers`` processes (1: in this one); gives their counts by their files.

    Raises the error of the first part, in their order, that cannot be made; those made by then stay.
    """
    made: dict[Path, PartCounts] = {}
    records, last = 0, time.monotonic()
    results = _in_pool(wanted, encoder, num_workers) if num_workers > 1 else (_make(part, encoder) for part in wanted)
    for part, counts in zip(wanted, results, strict=True):
        made[part.file] = counts
        records += counts.records
        if time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            tell(f'{records:,} records tokenized, {len(made)} of {len(wanted)} parts; now in task "{part.task.name}"')
    return made


def _make(part: EncodedPart, encoder: Encoder, watch: Callable[[], None] = lambda: None) -> PartCounts:
    def encoded() -> Iterator[EncodedRecords]:
        for chunk in chunks(parse_records(read_part(part.source), part.task, part.format)):
            watch()
            yield encoder(chunk, part.task)

    return write_part(part, encoded(), encoder.num_ids)


def _in_pool(wanted: Iterable[EncodedPart], encoder: Encoder, num_workers: int) -> Iterator[PartCounts]:
    # Not fork: the tokenizer's threads, once started, would leave a forked child waiting for ever.
    context = get_context("spawn")
    stopping = context.Event()
    with ProcessPoolExecutor(num_workers, context, _start_worker, (encoder, stopping)) as pool:
        ahead: deque[Future[PartCounts]] = deque()
        try:
            for part in wanted:
                ahead.append(pool.submit(_make_in_worker, part))
                if len(ahead) > 2 * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise RunError("a process that tokenizes was killed; is memory short? Use fewer workers.") from error
        finally:
            stopping.set()


class _NotWantedError(Exception):
    """Another part has failed: this one is not wanted any more."""


_worker: tuple[Encoder, Event]


def _start_worker(encoder: Encoder, stopping: Event) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process: the processes share the cores
    _worker = encoder, stopping
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers: they would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_in_worker(part: EncodedPart) -> PartCounts:
    encoder, stopping = _worker

    def watch() -> None:
        if stopping.is_set():
            raise _NotWantedError

    return _make(part, encoder, watch)
