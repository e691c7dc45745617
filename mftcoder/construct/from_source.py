"""Task datasets from source code: code tasks, unit tests, plain text; by parsing, without a model."""

import multiprocessing
import sysconfig
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from mftcoder.construct.code_tasks import CODE_TASKS
from mftcoder.construct.counts import Counts, as_json, require_records
from mftcoder.construct.folders import checkout_of, source_files
from mftcoder.construct.functions import LeftOut
from mftcoder.construct.harvest import (
    UNIT_TEST,
    Harvest,
    Made,
    Outcome,
    Root,
    Settings,
    Taken,
    harvest,
    read_again,
)
from mftcoder.construct.languages import LANGUAGES, NAMES, language_of, parser
from mftcoder.construct.licences import UNKNOWN, parse_allowed
from mftcoder.construct.output import TaskFile, task_files, write_json
from mftcoder.construct.seen import Seen
from mftcoder.errors import MftcoderError

TASKS = (*CODE_TASKS, UNIT_TEST, "text")
MAX_CHARS = 6000  # of a conversation: about 1,800 tokens of code
SIMILARITY = 0.85  # of files, from which on one repeats the other
MANIFEST = "construct.manifest"  # not called .json: ``out`` may be a task's path, and this is no file of records
FILES_PER_MESSAGE = 500
FILES_AT_ONCE = 16  # that a process is given
JOBS_WAITING = 4  # for each process


def construct(
    out: Path,
    roots: Sequence[Path] | None = None,
    tasks: Sequence[str] = TASKS,
    *,
    languages: Sequence[str] | None = None,
    licences: Sequence[str] = ("permissive",),
    max_samples: int | None = None,
    max_chars: int = MAX_CHARS,
    similarity: float | None = SIMILARITY,
    seed: int = 0,
    workers: int = 1,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes ``out/<task>.jsonl`` for every task, and the returned counts to ``out/construct.manifest``.

    The same files give the same bytes, however many ``workers`` (processes) there are; ``seed`` decides where functions
    are cut, which defect they get, and which ``max_samples`` records of each task are kept. ``max_chars`` bounds the
    characters of a conversation; whole files (``text``) have no bound, as tokenizing splits them. ``roots`` default to
    this Python's standard library, ``languages`` to all of NAMES. ``licences``: SPDX ids, ``permissive``, ``unknown``,
    ``any``. ``similarity`` None: files are only compared for being equal.

    In the counts, what was found is what was used plus what was left out, by reason. Raises MftcoderError for unknown
    tasks, languages and licences, folders without source files, an ``out`` that cannot be written, and where no record
    comes out at all.
    """
    allowed = parse_allowed(licences)
    _require_known("tasks", "task", tasks, TASKS)
    languages = languages or (NAMES if roots else ("python",))
    _require_known("languages", "language", languages, NAMES)
    if max_samples is not None and max_samples < 1:
        raise MftcoderError(f"max_samples: must be at least 1; found {max_samples}.")
    if similarity is not None and not 0 < similarity <= 1:
        raise MftcoderError(f"similarity: must be above 0 and at most 1; found {similarity}.")
    places = _roots(roots)
    settings = Settings(tuple(tasks), tuple(languages), allowed, max_chars, similarity, seed)
    counts, seen = Counts(), Seen()
    files = _files(places, settings, counts.folders)
    first = next(files)  # what is wrong with the folders is found before anything is written
    with task_files(out, tasks) as outputs:
        for found in _harvests(chain([first], files), places, settings, workers):
            _merge(found, outputs, counts, seen, places, settings)
            number = counts.files.used + counts.files.left_out.total()
            if number % FILES_PER_MESSAGE == 0:
                tell(f"{number:,} files read, {counts.functions.used:,} functions taken")
        seen.close()
        if max_samples is not None:
            for task, output in outputs.items():
                output.keep(max_samples, Random(f"{seed} {task}"))
        shown = as_json(places, settings, counts, outputs, max_samples, licences)
        require_records(shown)
        for output in outputs.values():
            output.publish()
        write_json(out / MANIFEST, shown)
    return shown


def _roots(roots: Sequence[Path] | None) -> list[Root]:
    library = Path(sysconfig.get_path("stdlib")).resolve()
    places = []
    for path in [library] if roots is None else roots:
        if path.is_dir() and path.resolve().is_relative_to(library) and "-packages" not in str(path.resolve()):
            places.append(Root(path, licence="PSF-2.0"))  # whose licence is not kept beside it everywhere
        else:
            places.append(Root(path, checkout_of(path) if path.is_dir() else None))
    return places


def _files(roots: Sequence[Root], settings: Settings, folders: Counter[str]) -> Iterator[tuple[int, str]]:
    for root in roots:
        if not root.path.is_dir():
            raise MftcoderError(f"{root.path}: no such folder. Name a folder of source files.")
    for number, root in enumerate(roots):
        wanted = _wanted(settings.languages)
        empty = True
        for path in source_files(root.path, wanted, folders, root.checkout):
            empty = False
            yield number, path
        if empty:
            suffixes = sorted(suffix for key in settings.languages for suffix in LANGUAGES[key].suffixes)
            names = "Python file" if settings.languages == ("python",) else "source file"
            kinds = ", ".join(f"*{suffix}" for suffix in suffixes)
            raise MftcoderError(f"{root.path}: found no {names} ({kinds}). Name a folder that holds some.")


def _wanted(languages: Sequence[str]) -> Callable[[str], bool]:
    """Whether a file is read; raises MftcoderError at the first one whose grammar is not installed."""

    def wanted(name: str) -> bool:
        key = language_of(name, languages)
        if key is not None and key != "python":
            parser(key)
        return key is not None

    return wanted


def _harvests(
    files: Iterator[tuple[int, str]], roots: Sequence[Root], settings: Settings, workers: int
) -> Iterator[Harvest]:
    """What came of each file, in order; a bounded number of them at a time."""
    if workers == 1:
        for number, path in files:
            yield harvest(number, roots[number], path, settings)
        return
    context = multiprocessing.get_context("spawn")  # nothing of this process goes along
    with ProcessPoolExecutor(workers, context) as pool:
        waiting: deque[Future[list[Harvest]]] = deque()
        while True:
            while len(waiting) < JOBS_WAITING * workers and (some := list(islice(files, FILES_AT_ONCE))):
                waiting.append(pool.submit(_some, some, roots, settings))
            if not waiting:
                return
            yield from waiting.popleft().result()


def _some(files: Iterable[tuple[int, str]], roots: Sequence[Root], settings: Settings) -> list[Harvest]:
    return [harvest(number, roots[number], path, settings) for number, path in files]


def _merge(
    found: Harvest,
    outputs: Mapping[str, TaskFile],
    counts: Counts,
    seen: Seen,
    roots: Sequence[Root],
    settings: Settings,
) -> None:
    """Writes what a file gives, unless it was there before, and counts it."""
    if UNIT_TEST in outputs:
        for outcome in found.unit_tests:
            _write(outcome, outputs[UNIT_TEST], seen)

    def take_file() -> None:
        if found.left_out is not None:
            raise LeftOut(found.left_out)
        seen.once(found.digest)
        if found.bands and settings.similarity is not None:
            place = found.root, found.path
            seen.unlike(found.bands, place, settings.similarity, lambda root, path: read_again(roots[root], path))
        counts.languages[found.language] += 1
        counts.licences[found.licence or UNKNOWN] += 1
        counts.emails += found.emails

    before = counts.files.used
    counts.files.attempt(take_file)
    if counts.files.used == before:
        return
    for function in found.functions:
        for task, outcome in (counts.functions.attempt(_outcomes, function, seen) or {}).items():
            _write(outcome, outputs[task], seen)
    if found.text is not None:
        outputs["text"].tally.attempt(outputs["text"].write_line, found.text)


def _outcomes(function: Taken | str, seen: Seen) -> dict[str, Outcome]:
    if isinstance(function, str):
        raise LeftOut(function)
    seen.once(function.digest)
    return function.outcomes


def _write(outcome: Outcome, output: TaskFile, seen: Seen) -> None:
    def take() -> Made:
        if isinstance(outcome, str):
            raise LeftOut(outcome)
        seen.once(outcome.asked)
        return outcome

    made = output.tally.attempt(take)
    if made is not None:
        output.write_line(made.line)


def _require_known(setting: str, kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise MftcoderError(f'{setting}: there is no {kind} "{name}". Choose from {", ".join(known)}.')
