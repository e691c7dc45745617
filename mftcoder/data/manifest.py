"""The manifest of a folder of shards: what went in, what came out, and hashes of both."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from transformers import PreTrainedTokenizerFast

from mftcoder import __version__
from mftcoder.config.schema import Config, Section
from mftcoder.data.inputs import (
    FileEntry,
    Inputs,
    Settings,
    SourceFile,
    TokenizerIdentity,
    describe,
    differences,
    json_hash,
    labelled,
    tokenizer_differences,
)
from mftcoder.data.location import is_remote
from mftcoder.data.sources import held_out_files, source_files
from mftcoder.errors import MftcoderError

FORMAT_VERSION = 3
MANIFEST = "manifest.json"


class SplitCounts(Section):
    """The rows of one split of a task."""

    samples: int
    tokens: int
    supervised_tokens: int
    rows: int
    median_tokens: float  # of a sample
    longest_tokens: int
    length_counts: list[int]  # samples of 1, of 2 to 3, of 4 to 7 … tokens
    padding_share: float | None  # of the slots of all rows; None with packing "pad", where the micro-batch decides
    files: list[FileEntry]


class TaskCounts(Section):
    """What became of a task's records."""

    name: str
    records: int
    bad: int  # records that were passed over, beside these
    samples: int  # made from the records: more when long ones were split, including those dropped
    split: int  # longer than a row, and therefore several samples
    truncated: int  # longer than a row, and therefore in part left out
    lost_tokens: int  # what was left out of them
    dropped: dict[str, int]  # reason -> samples
    noted: dict[str, int]  # what else happened -> to how many records
    leaked: int  # training samples that this or another task holds out: the same record, or one of the same group
    shared_probe: bool  # probe and validation are the same samples, as there are too few for two parts
    splits: dict[str, SplitCounts]  # train, and when anything was held out probe and validation


class Manifest(Section):
    """Written last: a folder without it holds no complete shards."""

    format_version: int
    versions: dict[str, str]
    inputs: Inputs
    tasks: list[TaskCounts]
    fingerprint: str  # of the contents: the same for the same rows, whatever made them, wherever they lie

    @classmethod
    def of(cls, inputs: Inputs, tasks: list[TaskCounts]) -> "Manifest":
        """The manifest of finished shards, made by this version of the program."""
        versions = {name: version(name) for name in ("transformers", "tokenizers", "jinja2", "numpy", "pyarrow")}
        return cls(
            format_version=FORMAT_VERSION,
            versions={"mftcoder": __version__, **versions},
            inputs=inputs,
            tasks=tasks,
            fingerprint=_fingerprint(inputs, tasks),
        )

    @property
    def files(self) -> list[FileEntry]:
        """All files of the shards but the manifest itself."""
        return [entry for task in self.tasks for split in task.splits.values() for entry in split.files]

    def task(self, name: str) -> TaskCounts:
        """The counts of the task called ``name``; MftcoderError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise MftcoderError(f'the shards hold no task "{name}"; they hold {", ".join(t.name for t in self.tasks)}.')

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of the shards in ``folder``; MftcoderError if it is missing, damaged or of another version."""
        file, remedy = folder / MANIFEST, "Tokenize again with --overwrite."
        if not is_remote(folder) and folder.is_file():  # over HTTP a folder that has a page is told as a file too
            raise MftcoderError(f"{folder}: is a file; shards are a folder. Name the folder that tokenize made.")
        if not file.is_file():
            raise MftcoderError(f"{folder}: holds no {MANIFEST}, so no complete shards. Run mftcoder tokenize.")
        try:
            raw = json.loads(file.read_bytes())
            if raw["format_version"] != FORMAT_VERSION:
                found = raw["format_version"]
                raise MftcoderError(f"{file}: format_version must be {FORMAT_VERSION}; found {found}. {remedy}")
            manifest = cls.model_validate_json(file.read_bytes())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MftcoderError(f"{file}: is damaged: {error}. {remedy}") from error
        if manifest.fingerprint != _fingerprint(manifest.inputs, manifest.tasks):
            raise MftcoderError(f"{file}: is damaged: its fingerprint does not fit its contents. {remedy}")
        for entry in manifest.files:
            if PurePosixPath(entry.path).is_absolute() or ".." in PurePosixPath(entry.path).parts:
                raise MftcoderError(f"{file}: the file {entry.path} lies outside the shards. Do not use them.")
        if problem := next(_inconsistencies(manifest), None):
            raise MftcoderError(f"{file}: is damaged: {problem}. {remedy}")
        return manifest


def check_matches(manifest: Manifest, config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    """MftcoderError, with both values, if the shards are not those that ``config`` and ``tokenizer`` would make.

    Source files are not looked at. The seed may differ, as it orders rows in the shards, and again in training; so may
    the size of the files.
    """
    made, now = manifest.inputs, TokenizerIdentity.of(config, tokenizer)
    differing = differences(made.settings, Settings.of(config)) | tokenizer_differences(made.tokenizer, now)
    for harmless in ("seed", "bytes_per_file"):
        differing.pop(harmless, None)
    made_tasks, now_tasks = ([labelled(task) for task in tasks] for tasks in (made.tasks, config.data.tasks))
    if made_tasks != now_tasks:
        differing["tasks"] = (", ".join(made_tasks), ", ".join(now_tasks))
    if differing:
        raise MftcoderError(f"data.shards: {describe(differing)}. Point data.shards elsewhere, or tokenize again.")


def changed_sources(manifest: Manifest, config: Config) -> list[str]:
    """The tasks of ``config`` whose files are no longer those that the shards were made from.

    Each as ``"code" (made from 1 file of 120 bytes, now 2 files of 300 bytes)``. A file is read only if its time
    differs and its size does not; a remote one never. A task whose files are not here does not count, as where shards
    were copied to a cluster without them.
    """
    made = {task.name: task.all_files for task in manifest.inputs.tasks}
    changed = []
    for task in config.data.tasks:
        try:
            now = source_files(task) + held_out_files(task)
        except MftcoderError:
            continue
        if task.name in made and not _unchanged(made[task.name], now):
            was, here = ([file.size for file in made[task.name]], [file.stat().st_size for file in now])
            changed.append(f'"{task.name}" (made from {_counted(was)}, now {_counted(here)})')
    return changed


def _unchanged(made: list[SourceFile], now: list[Path]) -> bool:
    return len(made) == len(now) and all(entry.is_still(file) for entry, file in zip(made, now, strict=True))


def _counted(sizes: list[int]) -> str:
    return f"{len(sizes)} {'file' if len(sizes) == 1 else 'files'} of {sum(sizes):,} bytes"


def _inconsistencies(manifest: Manifest) -> Iterator[str]:
    """What no shards can be that this program wrote, whatever their fingerprint."""
    names = [task.name for task in manifest.tasks]
    if names != [task.name for task in manifest.inputs.tasks] or manifest.inputs.settings.held_out.keys() != {*names}:
        yield f"it was made from other tasks than {', '.join(names)}"
    for task in manifest.tasks:
        if not task.splits.get("train"):
            yield f"nothing of {task.name} is to be trained on"
        for name, split in task.splits.items():
            counts = (split.samples, split.tokens, split.supervised_tokens, split.rows)
            if not 0 < split.rows <= sum(file.size for file in split.files) or min(counts) < 0:
                yield f"{task.name} / {name} cannot have {split.rows} rows of {split.tokens} tokens in its files"


def _fingerprint(inputs: Inputs, tasks: list[TaskCounts]) -> str:
    contents = [task.model_dump(mode="json") for task in tasks]
    return json_hash(
        [inputs.settings.model_dump(), inputs.tokenizer.hash, inputs.tokenizer.chat_template_hash, contents]
    )
