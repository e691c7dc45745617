"""From task files to a folder of packed shards: encode, fit, hold out, pack, write.

What is encoded is kept in a folder beside, in parts that are made only when they are not there: see ``parts``. The
shards are written into a folder aside that is renamed when complete: a folder of shards is either whole or absent.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mftcoder.config.schema import Config, Task
from mftcoder.data.bad_records import LISTED, Budget, write_list
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.encoding import Encoder
from mftcoder.data.filtering import FILTERED, Filtering
from mftcoder.data.inputs import Inputs, describe, input_differences
from mftcoder.data.location import is_remote, located
from mftcoder.data.making import Tell, look_ahead, make_parts, rare_collections
from mftcoder.data.manifest import MANIFEST, Manifest
from mftcoder.data.parts import (
    EncodedPart,
    Maker,
    PartCounts,
    SampleMaker,
    bad_lines,
    encoded_parts,
    find_parts,
    parts_in,
    remove_abandoned,
    remove_parts,
)
from mftcoder.data.planning import plan_all
from mftcoder.data.shards import Shards, write_manifest
from mftcoder.data.sketches import SketchMaker, TaskSketches, sketch_parts
from mftcoder.data.task_records import no_record
from mftcoder.data.writing import write_task
from mftcoder.errors import MftcoderError
from mftcoder.locks import locked

_BYTES_PER_WORKER = 64 * 2**20  # less is tokenized sooner than another process has started


def shards_path(config: Config) -> Path:
    """Where the shards of ``config`` lie: data.shards, or else ``shards`` in the output folder."""
    return located(config.data.shards) if config.data.shards else Path(config.output_dir) / "shards"


def samples_path(config: Config) -> Path:
    """Where the encoded samples of ``config`` lie: data.samples, or else beside the shards."""
    return Path(config.data.samples or f"{shards_path(config)}.samples")


def prepare(config: Config, *, tell: Tell, overwrite: bool = False, num_workers: int | None = None) -> Manifest:
    """Make the shards of ``config``, or find that they are there already.

    The result does not depend on ``num_workers`` (default: one per core where the data are large enough), nor on which
    encoded parts are there already. Progress goes to ``tell``. Raises MftcoderError if the input is at fault, or
    without ``overwrite`` if the folder holds others. Waits while another process makes them.
    """
    folder = shards_path(config)
    if is_remote(folder):
        raise MftcoderError(
            f"data.shards: shards are made in a folder of this machine; found {folder}. Tokenize with another "
            f"data.shards, copy that folder to {folder}, {MANIFEST} last, and then train."
        )
    waiting = locked(folder.with_name(f"{folder.name}.lock"), "it tokenizes into the same folder", tell)
    with waiting, rare_collections():
        _refuse_foreign(folder)
        tokenizer = load_tokenizer(config.model, config.data.chat)
        inputs = Inputs.of(config, tokenizer, _known_inputs(folder))
        if folder.exists() and not overwrite:
            _refuse_others(folder, inputs)
            tell(f"{folder}: these shards exist already and are used as they are.")
            return Manifest.read(folder)
        by_task = encoded_parts(config, inputs, samples_path(config))
        parts = list(chain.from_iterable(by_task))
        counts = _encode(config, inputs, parts, Encoder.of(config, tokenizer), num_workers, tell)
        for some in by_task:
            _refuse_no_record(some[0].task, [counts[part.file] for part in some if not part.held_out])
        sketches, filtering = _sketch(config, inputs, by_task, num_workers, tell)
        plans = plan_all(by_task, counts, inputs.settings, filtering)
        with _written_aside(folder) as aside:
            tasks = [write_task(aside, plan, inputs.settings) for plan in plans]
            if filtering:
                write_list(aside / FILTERED, filtering.listed)
            if any(task.bad for task in tasks):
                write_list(aside / LISTED, bad_lines((part, counts[part.file]) for part in parts))
            manifest = Manifest.of(inputs, tasks)
            write_manifest(aside, manifest)
        listed_beside(config).unlink(missing_ok=True)
        _tidy(config, parts + sketches, tell)
        return manifest


def listed_beside(config: Config) -> Path:
    """Where bad records are listed if they are too many to make shards."""
    folder = shards_path(config)
    return folder.with_name(f"{folder.name}.{LISTED}")


class Share(NamedTuple):
    """What one machine of several has made."""

    number: int  # from 1
    of: int
    parts: int  # of the source files
    all_parts: int
    records: int

    def __str__(self) -> str:
        return (
            f"share {self.number} of {self.of}: {self.records:,} records in {self.parts} of {self.all_parts} parts. "
            "When all shares are in one folder, tokenize without --part packs them."
        )


def prepare_share(config: Config, number: int, of: int, *, tell: Tell, num_workers: int | None = None) -> Share:
    """Make every ``of``-th encoded part of ``config``, beginning with the ``number``-th, counted from 1.

    When all shares are made, on as many machines as one likes, ``prepare`` finds them in ``samples_path``.
    """
    tokenizer = load_tokenizer(config.model, config.data.chat)
    inputs = Inputs.of(config, tokenizer)
    parts = list(chain.from_iterable(encoded_parts(config, inputs, samples_path(config))))
    mine = parts[number - 1 :: of]
    with rare_collections():
        counts = _encode(config, inputs, mine, Encoder.of(config, tokenizer), num_workers, tell)
        if config.data.filters:
            sketches = list(chain.from_iterable(sketch_parts(config, inputs, samples_path(config))))
            _make_missing(config, sketches[number - 1 :: of], SketchMaker(config.data.filters), num_workers, tell)
    return Share(number, of, len(mine), len(parts), sum(count.records for count in counts.values()))


def _encode(
    config: Config, inputs: Inputs, parts: Sequence[EncodedPart], encoder: Encoder, num_workers: int | None, tell: Tell
) -> dict[Path, PartCounts]:
    """Make those of ``parts`` that are not there; the counts of all, by their files."""
    for task, source in zip(config.data.tasks, inputs.tasks, strict=True):
        detected = " (detected)" if task.format == "auto" else ""
        tell(f'task "{task.name}": files: {len(source.files)}, record format: {source.format}{detected}')
    return _make_missing(config, parts, SampleMaker(encoder), num_workers, tell)


def _sketch(
    config: Config, inputs: Inputs, by_task: Sequence[Sequence[EncodedPart]], num_workers: int | None, tell: Tell
) -> tuple[list[EncodedPart], Filtering | None]:
    """The parts of what samples are compared by, and what the filters of ``config`` make of it; nothing without any."""
    if not config.data.filters:
        return [], None
    sketches = sketch_parts(config, inputs, samples_path(config))
    parts = list(chain.from_iterable(sketches))
    maker = SketchMaker(config.data.filters)
    if too_short := len(maker.benchmarks.too_short):
        tell(f"{too_short:,} of {len(maker.benchmarks.items):,} items of benchmarks are too short to be looked for")
    _make_missing(config, parts, maker, num_workers, tell)
    of_tasks = [TaskSketches.read(*both) for both in zip(by_task, sketches, strict=True)]
    return parts, Filtering(config.data.filters, [task.name for task in config.data.tasks], of_tasks)


def _make_missing(
    config: Config, parts: Sequence[EncodedPart], maker: Maker, num_workers: int | None, tell: Tell
) -> dict[Path, PartCounts]:
    """Make those of ``parts`` that are not there; the counts of all, by their files."""
    folder = samples_path(config)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    budget = Budget(config.data.max_bad_records, listed_beside(config))
    found = find_parts(parts)
    for part in parts:
        if made_before := found[part.file]:
            budget.add(part.task.name, part.source.path, made_before.bad)
    missing = list({part.file: part for part in parts if not found[part.file]}.values())
    if len(missing) < len(found):
        tell(f"{folder}: {len(found) - len(missing)} of {len(found)} parts are {maker.doing} already")
    if isinstance(maker, SampleMaker):
        look_ahead(missing, maker.encoder, budget.limit)
    made = make_parts(missing, maker, num_workers or _workers_for(missing), budget, tell)
    return {file: counts for file, counts in found.items() if counts} | made


def _refuse_no_record(task: Task, counts: Sequence[PartCounts]) -> None:
    if not any(count.records for count in counts):
        num_bad = sum(len(count.bad) for count in counts)
        raise MftcoderError(f'task "{task.name}": all {num_bad:,} records are bad.') if num_bad else no_record(task)


def _workers_for(parts: Sequence[EncodedPart]) -> int:
    size = sum(file.stat().st_size for file in {part.source.path for part in parts})
    return max(1, min(len(os.sched_getaffinity(0)), len(parts), 1 + size // _BYTES_PER_WORKER))


def _known_inputs(folder: Path) -> Inputs | None:
    """What the shards in ``folder`` were made from; None if there are none that this program can read."""
    try:
        return Manifest.read(folder).inputs
    except MftcoderError:
        return None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file():
        kind = "exists but holds no shards" if folder.is_dir() else "is no folder"
        raise MftcoderError(f"{folder}: {kind}. Choose another data.shards, or remove it.")


def _refuse_others(folder: Path, inputs: Inputs) -> None:
    if differing := input_differences(Shards.open(folder).manifest.inputs, inputs):
        raise MftcoderError(f"{folder}: {describe(differing)}. Choose another data.shards, or overwrite these.")


def _empty_folder_beside(folder: Path, suffix: str) -> Path:
    """``folder``.``suffix``, emptied of what a run left that was ended before it was done."""
    beside = folder.with_name(f"{folder.name}.{suffix}")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    return beside


@contextmanager
def _written_aside(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when the block is done; nothing is left of it if that fails."""
    aside = _empty_folder_beside(folder, "partial")
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replaced = _empty_folder_beside(folder, "replaced")
    if folder.exists():
        folder.rename(replaced)
    aside.rename(folder)
    shutil.rmtree(replaced)


def _tidy(config: Config, parts: Sequence[EncodedPart], tell: Tell) -> None:
    """Remove encoded samples that nothing needs any more; a folder that configs may share keeps those of others."""
    folder, own = samples_path(config), {part.file for part in parts}
    there = own if config.data.samples else set(parts_in(folder))
    remove_parts(there - own if config.data.keep_samples else there)
    if config.data.keep_samples:
        size = sum(file.stat().st_size for file in own)
        tell(f"{folder}: {size / 1e6:,.1f} MB of encoded samples, kept to be packed again; remove them at any time")
    elif not any(folder.iterdir()):
        folder.rmdir()
