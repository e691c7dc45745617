"""Making encoded parts: read, parse, encode, write, in one process or in several; the files are the same."""

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

from mftcoder import plugins
from mftcoder.config.schema import Task
from mftcoder.data.bad_records import SHOWN, BadRecords, Budget, TooManyBadError
from mftcoder.data.encoding import Encoder, chunks
from mftcoder.data.parts import EncodedPart, Made, Maker, PartCounts, write_part
from mftcoder.data.reading import Part, read_part
from mftcoder.data.task_records import parse_records
from mftcoder.errors import MftcoderError, RunError

_SECONDS_BETWEEN_NEWS = 10.0
_LOOK_AHEAD = 100  # records
_OBJECTS_BETWEEN_COLLECTIONS = 50_000  # some 10 MB, should all be garbage

Tell = Callable[[str], None]


@contextmanager
def rare_collections() -> Iterator[None]:
    """In the block, Python seldom looks for garbage; else it would look through the records of a chunk all the time."""
    usual = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def look_ahead(wanted: Iterable[EncodedPart], encoder: Encoder, max_bad: int) -> None:
    """Try the first records of each task, so that what is wrong with all of them is told before hours of work.

    Raises MftcoderError that names several bad records of each task that has more than ``max_bad``, or what would keep
    all records from being encoded.
    """
    problems = []
    for part in {part.task.name: part for part in reversed(list(wanted))}.values():
        problems += first_problems(part.source, part.task, part.format, encoder, max_bad)
    if problems:
        raise MftcoderError("\n".join(problems))


def first_problems(source: Part, task: Task, format: str, encoder: Encoder, max_bad: int) -> list[str]:
    """What is wrong with the first records of ``task`` in ``source``; nothing if ``max_bad`` records may be bad."""
    problems: list[str] = []

    def note(error: MftcoderError) -> None:
        if not str(error).startswith(str(source.path)):  # about no record: any other would give it again
            raise error
        problems.append(str(error))
        if len(problems) > max_bad + SHOWN:
            raise TooManyBadError([])

    with suppress(TooManyBadError):
        raw = islice(read_part(source, note), _LOOK_AHEAD)
        encoder(list(parse_records(raw, task, format, note)), task, note)
    return problems[:SHOWN] if len(problems) > max_bad else []


def make_parts(
    wanted: Sequence[EncodedPart], maker: Maker, num_workers: int, budget: Budget, tell: Tell
) -> dict[Path, PartCounts]:
    """Make the parts ``wanted`` in ``num_workers`` processes (1: in this one); gives their counts by their files.

    Raises the error of the first part, in their order, that cannot be made, or whose bad records are more than the
    ``budget`` allows; those made by then stay.
    """
    made: dict[Path, PartCounts] = {}
    records, last = 0, time.monotonic()
    make = _in_pool if num_workers > 1 else _in_this_process
    with closing(make(wanted, maker, budget.limit, num_workers)) as results:
        for part in wanted:
            try:
                made[part.file] = counts = next(results)
            except TooManyBadError as error:
                budget.add(part.task.name, part.source.path, error.bad)
                raise
            budget.add(part.task.name, part.source.path, counts.bad)
            records += counts.records
            if time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
                last = time.monotonic()
                done = f"{records:,} records {maker.doing}, {len(made)} of {len(wanted)} parts"
                tell(f'{done}; now in task "{part.task.name}"')
    return made


def _make(part: EncodedPart, maker: Maker, max_bad: int, watch: Callable[[], None] = lambda: None) -> PartCounts:
    bad = BadRecords(part.source.path, max_bad)

    def batches() -> Iterator[Made]:
        num_records = 0
        for chunk in chunks(parse_records(read_part(part.source, bad), part.task, part.format, bad)):
            watch()
            made = maker(chunk, part, num_records, bad)
            num_records += made.num_records
            yield made

    return write_part(part, batches(), maker.schema, bad.in_order)


def _in_this_process(
    wanted: Iterable[EncodedPart], maker: Maker, max_bad: int, _: int
) -> Generator[PartCounts, None, None]:
    for part in wanted:
        yield _make(part, maker, max_bad)


def _in_pool(
    wanted: Iterable[EncodedPart], maker: Maker, max_bad: int, num_workers: int
) -> Generator[PartCounts, None, None]:
    # Not fork: the tokenizer's threads, once started, would leave a forked child waiting for ever.
    context = get_context("spawn")
    stopping = context.Event()
    with ProcessPoolExecutor(num_workers, context, _start_worker, (maker, max_bad, stopping, plugins.loaded)) as pool:
        ahead: deque[Future[PartCounts]] = deque()
        try:
            for part in wanted:
                with _interrupts_held_back():
                    ahead.append(pool.submit(_make_in_worker, part))
                if len(ahead) > 2 * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise RunError("a process that tokenizes was killed; is memory short? Use fewer workers.") from error
        finally:
            stopping.set()
            for future in ahead:
                future.cancel()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits for the end of the block. Processes started in it never see one: this one tells them when to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _NotWantedError(Exception):
    """Another part has failed: this one is not wanted any more."""


_worker: tuple[Maker, int, Event]


def _start_worker(maker: Maker, max_bad: int, stopping: Event, wanted: Sequence[str]) -> None:
    global _worker
    plugins.load_plugins(wanted)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process: the processes share the cores
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    _worker = maker, max_bad, stopping
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers: they would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_in_worker(part: EncodedPart) -> PartCounts:
    maker, max_bad, stopping = _worker

    def watch() -> None:
        if stopping.is_set():
            raise _NotWantedError

    return _make(part, maker, max_bad, watch)
