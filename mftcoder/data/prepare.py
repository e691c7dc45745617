"""From task files to a folder of packed shards: read, encode, hold out, pack, write.

Everything is written into a folder aside that is renamed when complete: a folder of shards is either whole or absent.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.table import Table

from mftcoder.config.schema import Config
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.encoding import EncodedRecords, Encoder, encoding, joined
from mftcoder.data.fitting import cut, fit_all
from mftcoder.data.holdout import SPLITS, hold_out
from mftcoder.data.manifest import (
    MANIFEST,
    Inputs,
    Manifest,
    Settings,
    SplitCounts,
    TaskCounts,
    describe,
    input_differences,
)
from mftcoder.data.packing import Layout, pack
from mftcoder.data.records import read_records
from mftcoder.data.shards import Shards, write_manifest, write_rows
from mftcoder.errors import MftcoderError

_BYTES_PER_WORKER = 64 * 2**20  # less is tokenized sooner than another process has started
_SECONDS_BETWEEN_NEWS = 10.0

Tell = Callable[[str], None]


def shards_path(config: Config) -> Path:
    """Where the shards of ``config`` lie: data.shards, or else ``shards`` in the output folder."""
    return Path(config.data.shards or Path(config.output_dir) / "shards")


def prepare(config: Config, *, tell: Tell, overwrite: bool = False, num_workers: int | None = None) -> Manifest:
    """Make the shards of ``config``, or find that they are there already.

    The result does not depend on ``num_workers`` (default: one per core where the data are large enough). Progress goes
    to ``tell``. Raises MftcoderError if the input is at fault, or without ``overwrite`` if the folder holds others.
    """
    folder = shards_path(config)
    tokenizer = load_tokenizer(config.model, config.data.chat)
    inputs = Inputs.of(config, tokenizer)
    if not overwrite and _already_made(folder, inputs):
        tell(f"{folder}: these shards exist already and are used as they are.")
        return Manifest.read(folder)
    aside = _empty_folder_beside(folder, "partial")
    settings = inputs.settings
    encoder = Encoder(tokenizer, settings.seed)
    tasks = []
    with encoding(encoder, num_workers or _workers_for(inputs)) as encode_all:
        for task, source in zip(config.data.tasks, inputs.tasks, strict=True):
            detected = " (detected)" if task.format == "auto" else ""
            tell(f'task "{task.name}": files: {len(source.files)}, record format: {source.format}{detected}')
            encoded = joined(_with_news(encode_all(read_records(task), task), task.name, tell))
            tasks.append(_write_task(aside, task.name, settings, encoded))
    manifest = Manifest.of(inputs, tasks)
    write_manifest(aside, manifest)
    _put_in_place(aside, folder)
    return manifest


def _already_made(folder: Path, inputs: Inputs) -> bool:
    if not folder.exists():
        return False
    _refuse_foreign(folder)
    differing = input_differences(Shards.open(folder).manifest.inputs, inputs)
    if differing:
        raise MftcoderError(f"{folder}: {describe(differing)}. Choose another data.shards, or overwrite these.")
    return True


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file():
        kind = "exists but holds no shards" if folder.is_dir() else "is no folder"
        raise MftcoderError(f"{folder}: {kind}. Choose another data.shards, or remove it.")


def _empty_folder_beside(folder: Path, suffix: str) -> Path:
    """``folder``.``suffix``, emptied of what a run left that was ended before it was done."""
    _refuse_foreign(folder)
    beside = folder.with_name(f"{folder.name}.{suffix}")
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir(parents=True)
    return beside


def _put_in_place(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
        return
    replaced = _empty_folder_beside(folder, "replaced")
    folder.rename(replaced)
    aside.rename(folder)
    shutil.rmtree(replaced)


def _workers_for(inputs: Inputs) -> int:
    size = sum(file.size for task in inputs.tasks for file in task.files)
    return min(len(os.sched_getaffinity(0)), 1 + size // _BYTES_PER_WORKER)


def _with_news(chunks: Iterable[EncodedRecords], task: str, tell: Tell) -> Iterator[EncodedRecords]:
    """Passes ``chunks`` through and now and then tells how far they are."""
    num_records, last = 0, time.monotonic()
    for chunk in chunks:
        num_records += chunk.counts["records"]
        if time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            tell(f'task "{task}": {num_records:,} records tokenized')
        yield chunk


def _write_task(folder: Path, task: str, settings: Settings, encoded: EncodedRecords) -> TaskCounts:
    pieces, counts, over_long = fit_all(encoded.samples, settings.sequence_length, settings.over_long)
    dropped = dict(sorted((encoded.dropped + over_long).items()))
    num_records = encoded.counts["records"]
    if not len(pieces.sample):
        reasons = "; ".join(f"{number} with {reason}" for reason, number in dropped.items())
        raise MftcoderError(
            f'task "{task}": no supervised token is left to train on: all samples were dropped ({reasons}).'
        )
    samples = cut(encoded.samples, pieces)
    groups, named = encoded.groups[pieces.sample], encoded.named[pieces.sample]
    held = hold_out(groups, named, settings.validation_fraction)
    starts = np.cumsum(samples.lengths, dtype=np.int64) - samples.lengths
    supervised_tokens = np.add.reduceat(samples.supervised, starts, dtype=np.int64)
    splits = {}
    for split, members in held.members.items():
        if not len(members):
            continue
        layout = pack(samples.lengths[members], settings.sequence_length, settings.packing, settings.seed, int(split))
        files = write_rows(folder, f"{task}/{SPLITS[split]}", samples, Layout(members[layout.order], layout.row_starts))
        num_tokens, num_rows = int(samples.lengths[members].sum(dtype=np.int64)), len(layout.row_starts) - 1
        padding_share = 1 - num_tokens / (num_rows * settings.sequence_length)
        splits[SPLITS[split]] = SplitCounts(
            samples=len(members),
            tokens=num_tokens,
            supervised_tokens=int(supervised_tokens[members].sum()),
            rows=num_rows,
            padding_share=None if settings.packing == "pad" else padding_share,
            files=files,
        )
    return TaskCounts(
        name=task,
        records=num_records,
        samples=num_records + len(pieces.sample) - len(np.unique(pieces.sample)),
        split=counts["split"],
        truncated=counts["truncated"],
        lost_tokens=counts["lost_tokens"],
        dropped=dropped,
        shared_probe=held.shared_probe,
        splits=splits,
    )


def table(manifest: Manifest) -> Table:
    """What the shards hold, one line per task and split; below it what every task's records became."""
    result = Table(title=f"shards {manifest.fingerprint}", title_justify="left", caption_justify="left")
    for heading in ("task", "split"):
        result.add_column(heading, overflow="fold")
    for heading in ("samples", "tokens", "supervised", "rows", "padding"):
        result.add_column(heading, justify="right", no_wrap=True)
    captions = []
    for task, source in zip(manifest.tasks, manifest.inputs.tasks, strict=True):
        for index, (name, split) in enumerate(task.splits.items()):
            padding = "–" if split.padding_share is None else f"{split.padding_share:.2%}"
            counts = (split.samples, split.tokens, split.supervised_tokens, split.rows)
            result.add_row(task.name if index == 0 else "", name, *(f"{number:,}" for number in counts), padding)
        result.add_section()
        records = f"{task.records:,} records of format {source.format}"
        captions.append("; ".join([f"{task.name}: {records}", *notes(task, manifest.inputs.settings)]) + ".")
    result.caption = "\n".join(captions)
    return result


def notes(task: TaskCounts, settings: Settings) -> list[str]:
    """What happened to a task's records that its owner should know, a phrase each."""
    found = [f"{number:,} samples dropped: {reason}" for reason, number in task.dropped.items()]
    if task.truncated:
        found.append(f"{task.truncated:,} samples truncated to a row: {task.lost_tokens:,} tokens left out")
    if task.split:
        found.append(f"{task.split:,} samples longer than a row were split")
    if task.shared_probe:
        found.append("too small for two parts: probe and validation are the same samples")
    if "validation" not in task.splits:
        off = settings.validation_fraction == 0
        found.append("no validation: " + ("validation_fraction is 0" if off else "there is only one group of samples"))
    return found
