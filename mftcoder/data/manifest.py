"""The manifest of a folder of shards: what went in, what came out, and hashes of both."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from mftcoder import __version__
from mftcoder.config.schema import Config, Section, Task
from mftcoder.data.records import record_format
from mftcoder.data.sources import source_files
from mftcoder.errors import MftcoderError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class FileEntry(Section):
    """A file and its checksum."""

    path: str  # of a source: as the config names it; of a shard: relative to the folder of the shards
    size: int  # bytes
    blake2b: str  # 128 bits, hexadecimal

    @classmethod
    def of(cls, file: Path, path: str) -> "FileEntry":
        """The entry of ``file`` under the name ``path``."""
        return cls(path=path, size=file.stat().st_size, blake2b=file_hash(file))


class Settings(Section):
    """The settings that decide what the shards hold."""

    sequence_length: int  # tokens
    packing: Literal["pack", "pad", "pad_to_max"]
    over_long: Literal["truncate", "drop", "split"]
    validation_fraction: float
    seed: int

    @classmethod
    def of(cls, config: Config) -> "Settings":
        """Those of ``config``."""
        data = config.data
        return cls(
            sequence_length=data.sequence_length,
            packing=data.packing.mode,
            over_long=data.over_long,
            validation_fraction=data.validation_fraction,
            seed=config.seed,
        )


class TokenizerIdentity(Section):
    """Which tokenizer and chat template the token ids come from."""

    path: str
    revision: str | None
    hash: str
    chat_template_hash: str

    @classmethod
    def of(cls, config: Config, tokenizer: PreTrainedTokenizerFast) -> "TokenizerIdentity":
        """That of ``tokenizer``, loaded as ``config`` says."""
        return cls(
            path=config.model.path,
            revision=config.model.revision,
            hash=vocabulary_hash(tokenizer),
            chat_template_hash=json_hash(tokenizer.chat_template),
        )


class TaskSource(Section):
    """What a task is made from."""

    name: str
    format: str
    where: dict[str, str | int] = Field({})  # what selects the task's records in the files; empty: all
    files: list[FileEntry]


class Inputs(Section):
    """All that shards are a function of."""

    settings: Settings
    tokenizer: TokenizerIdentity
    tasks: list[TaskSource]

    @classmethod
    def of(cls, config: Config, tokenizer: PreTrainedTokenizerFast) -> "Inputs":
        """Those of ``config``; reads every source file once."""
        tasks = [
            TaskSource(
                name=task.name,
                format=record_format(task),
                where=task.where,
                files=[FileEntry.of(file, str(file)) for file in source_files(task)],
            )
            for task in config.data.tasks
        ]
        return cls(settings=Settings.of(config), tokenizer=TokenizerIdentity.of(config, tokenizer), tasks=tasks)


class SplitCounts(Section):
    """The rows of one split of a task."""

    samples: int
    tokens: int
    supervised_tokens: int
    rows: int
    padding_share: float | None  # of the slots of all rows; None with packing "pad", where the micro-batch decides
    files: list[FileEntry]


class TaskCounts(Section):
    """What became of a task's records."""

    name: str
    records: int
    samples: int  # made from the records: more when long ones were split, including those dropped
    split: int  # longer than a row, and therefore several samples
    truncated: int  # longer than a row, and therefore in part left out
    lost_tokens: int  # what was left out of them
    dropped: dict[str, int]  # reason -> samples
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

    def task(self, name: str) -> TaskCounts:
        """The counts of the task called ``name``; MftcoderError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise MftcoderError(f'the shards hold no task "{name}"; they hold {", ".join(t.name for t in self.tasks)}.')

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of the shards in ``folder``; MftcoderError if it is missing, damaged or of another version."""
        file = folder / MANIFEST
        if folder.is_file():
            raise MftcoderError(f"{folder}: is a file; shards are a folder. Name the folder that tokenize made.")
        if not file.is_file():
            raise MftcoderError(f"{folder}: holds no {MANIFEST}, so no complete shards. Run mftcoder tokenize.")
        try:
            raw = json.loads(file.read_bytes())
            if raw["format_version"] != FORMAT_VERSION:
                found = raw["format_version"]
                raise MftcoderError(f"{file}: format_version must be {FORMAT_VERSION}; found {found}. Tokenize again.")
            manifest = cls.model_validate_json(file.read_bytes())
        except (ValueError, KeyError, TypeError) as error:
            raise MftcoderError(f"{file}: is damaged: {error}. Tokenize again.") from error
        if manifest.fingerprint != _fingerprint(manifest.inputs, manifest.tasks):
            raise MftcoderError(f"{file}: is damaged: its fingerprint does not fit its contents. Tokenize again.")
        return manifest


def check_matches(manifest: Manifest, config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    """MftcoderError, with both values, if the shards are not those that ``config`` and ``tokenizer`` would make.

    Source files are not looked at, and the seed may differ: it orders rows in the shards, and again in training.
    """
    made, now = manifest.inputs, TokenizerIdentity.of(config, tokenizer)
    differing = differences(made.settings, Settings.of(config)) | _tokenizer_differences(made.tokenizer, now)
    differing.pop("seed", None)
    made_tasks, now_tasks = ([_labelled(task) for task in tasks] for tasks in (made.tasks, config.data.tasks))
    if made_tasks != now_tasks:
        differing["tasks"] = (", ".join(made_tasks), ", ".join(now_tasks))
    if differing:
        raise MftcoderError(f"data.shards: {describe(differing)}. Point data.shards elsewhere, or tokenize again.")


def changed_sources(manifest: Manifest, config: Config) -> list[str]:
    """The tasks of ``config`` whose files now differ in number or size from those that the shards were made from.

    Each as ``"code" (made from 1 file of 120 bytes, now 2 files of 300 bytes)``. A task whose files are not here does
    not count, as where shards were copied to a cluster without them.
    """
    made = {task.name: [file.size for file in task.files] for task in manifest.inputs.tasks}
    changed = []
    for task in config.data.tasks:
        try:
            now = [file.stat().st_size for file in source_files(task)]
        except MftcoderError:
            continue
        if task.name in made and now != made[task.name]:
            changed.append(f'"{task.name}" (made from {_counted(made[task.name])}, now {_counted(now)})')
    return changed


def input_differences(made: Inputs, now: Inputs) -> dict[str, tuple[Any, Any]]:
    """What differs between the inputs of two sets of shards: name -> (value then, value now)."""
    differing = differences(made.settings, now.settings) | _tokenizer_differences(made.tokenizer, now.tokenizer)
    then_tasks, now_tasks = ([(_labelled(task), task.format) for task in inputs.tasks] for inputs in (made, now))
    if then_tasks != now_tasks:
        return {**differing, "tasks (name, format)": (then_tasks, now_tasks)}
    for then, task in zip(made.tasks, now.tasks, strict=True):
        if [file.blake2b for file in then.files] != [file.blake2b for file in task.files]:
            differing[f'sources of task "{task.name}"'] = (_listed(then.files), _listed(task.files))
    return differing


def differences(made: Section, now: Section) -> dict[str, tuple[Any, Any]]:
    """The fields in which two sections of one kind differ: name -> (value then, value now)."""
    fields = type(made).model_fields
    return {key: (getattr(made, key), getattr(now, key)) for key in fields if getattr(made, key) != getattr(now, key)}


def describe(differing: dict[str, tuple[Any, Any]]) -> str:
    """The differences as one sentence."""
    return "the shards were made with " + "; ".join(
        f"{name} {then}, where the config now has {now}" for name, (then, now) in differing.items()
    )


def _tokenizer_differences(made: TokenizerIdentity, now: TokenizerIdentity) -> dict[str, tuple[Any, Any]]:
    """Only contents count: the same tokenizer may lie elsewhere."""
    differing = {}
    if made.hash != now.hash:
        differing["tokenizer"] = (f"{made.path} ({made.hash})", f"{now.path} ({now.hash})")
    if made.chat_template_hash != now.chat_template_hash:
        differing["chat template"] = (made.chat_template_hash, now.chat_template_hash)
    return differing


def _labelled(task: Task | TaskSource) -> str:
    return (
        f"{task.name} where {json.dumps(task.where, sort_keys=True, ensure_ascii=False)}" if task.where else task.name
    )


def _counted(sizes: list[int]) -> str:
    return f"{len(sizes)} {'file' if len(sizes) == 1 else 'files'} of {sum(sizes):,} bytes"


def _listed(files: Iterable[FileEntry]) -> str:
    return ", ".join(f"{file.path} ({file.size} bytes, {file.blake2b[:8]}…)" for file in files)


def _fingerprint(inputs: Inputs, tasks: list[TaskCounts]) -> str:
    contents = [task.model_dump(mode="json") for task in tasks]
    return json_hash(
        [inputs.settings.model_dump(), inputs.tokenizer.hash, inputs.tokenizer.chat_template_hash, contents]
    )


def vocabulary_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Of all that turns text into ids, the chat template apart."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend.update(truncation=None, padding=None)  # these change with use and never reach the shards
    return json_hash([backend, tokenizer.special_tokens_map])


def json_hash(value: Any) -> str:
    """128 bits, hexadecimal, of a JSON value; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_hash(file: Path) -> str:
    """128 bits, hexadecimal, of a file's contents."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
