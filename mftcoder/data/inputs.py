"""What shards are a function of: settings, tokenizer, template and source files, with hashes of their contents."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Config, Filters, Fim, HeldOut, Section, Task
from mftcoder.data.location import failures, is_remote
from mftcoder.data.sources import held_out_files, named_files, source_files
from mftcoder.data.task_records import record_format


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
    bytes_per_file: int
    held_out: dict[str, HeldOut]  # of each task
    seed: int
    filters: Filters | None = None

    @classmethod
    def of(cls, config: Config) -> "Settings":
        """Those of ``config``."""
        data = config.data
        return cls(
            sequence_length=data.sequence_length,
            packing=data.packing.mode,
            over_long=data.over_long,
            bytes_per_file=data.bytes_per_file,
            held_out={task.name: data.held_out(task) for task in data.tasks},
            seed=config.seed,
            filters=data.filters,
        )


class TokenizerIdentity(Section):
    """Which tokenizer and chat template the token ids come from."""

    path: str
    revision: str | None
    new_tokens: list[str] = Field([])  # as the config has them
    hash: str
    chat_template_hash: str

    @classmethod
    def of(cls, config: Config, tokenizer: PreTrainedTokenizerFast) -> "TokenizerIdentity":
        """That of ``tokenizer``, loaded as ``config`` says."""
        return cls(
            path=config.model.path,
            revision=config.model.revision,
            new_tokens=config.model.new_tokens,
            hash=vocabulary_hash(tokenizer),
            chat_template_hash=json_hash(tokenizer.chat_template),
        )


class SourceFile(FileEntry):
    """A file of records. Where only its time differs, its checksum decides whether it has changed."""

    modified_ns: int | None  # nanoseconds since 1970; None: a remote file, whose time is not known

    @classmethod
    def read(cls, file: Path, known: Mapping[str, "SourceFile"]) -> "SourceFile":
        """The entry of ``file`` as it is now; reads it unless it is as long and as old as the one ``known``."""
        with failures(file, f"{file}: cannot be read"):
            found = file.stat()
            modified = None if is_remote(file) else found.st_mtime_ns
            entry = known.get(str(file))
            if entry and modified and (entry.size, entry.modified_ns) == (found.st_size, modified):
                return entry
            return cls(path=str(file), size=found.st_size, blake2b=file_hash(file), modified_ns=modified)

    def is_still(self, file: Path) -> bool:
        """Whether ``file`` has these contents; reads it only if its time differs and its size does not."""
        found = file.stat()
        return found.st_size == self.size and (
            is_remote(file) or found.st_mtime_ns == self.modified_ns or file_hash(file) == self.blake2b
        )


_READING = {"where", "supervise", "control_tokens", "fim"}  # keys of a task that decide what its records become


class TaskSource(Section):
    """What a task is made from."""

    name: str
    format: str
    where: dict[str, str | int] = Field({})  # this and the next are as in the config
    supervise: Literal["all", "last"] = "all"
    control_tokens: bool = False
    fim: Fim | None = None
    files: list[SourceFile]
    held_out_files: list[SourceFile] = Field([])  # whose records are held out, where they lie apart

    @property
    def all_files(self) -> list[SourceFile]:
        return self.files + self.held_out_files

    @property
    def reading(self) -> dict[str, Any]:
        """What decides, beside the tokenizer and the files' contents, which samples the files give."""
        return self.model_dump(exclude={"name", "files", "held_out_files"})


class Inputs(Section):
    """All that shards are a function of."""

    settings: Settings
    tokenizer: TokenizerIdentity
    tasks: list[TaskSource]
    benchmarks: list[SourceFile] = Field([])  # whose items are filtered out

    @classmethod
    def of(cls, config: Config, tokenizer: PreTrainedTokenizerFast, made: "Inputs | None" = None) -> "Inputs":
        """Those of ``config``; reads every source file that has changed since ``made``, or all of them."""
        known_files = chain(made.benchmarks, *(task.all_files for task in made.tasks)) if made else ()
        known = {file.path: file for file in known_files}
        files = [source_files(task) for task in config.data.tasks]
        held_out = [held_out_files(task) for task in config.data.tasks]
        benchmarks = benchmark_files(config.data.filters) if config.data.filters else []
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python's lock to others
            distinct = dict.fromkeys(file for some in [*files, *held_out, benchmarks] for file in some)
            entries = dict(zip(distinct, pool.map(lambda file: SourceFile.read(file, known), distinct), strict=True))
        tasks = [
            TaskSource(
                name=task.name,
                format=record_format(task),
                **{key: getattr(task, key) for key in _READING},
                files=[entries[file] for file in some],
                held_out_files=[entries[file] for file in apart],
            )
            for task, some, apart in zip(config.data.tasks, files, held_out, strict=True)
        ]
        return cls(
            settings=Settings.of(config),
            tokenizer=TokenizerIdentity.of(config, tokenizer),
            tasks=tasks,
            benchmarks=[entries[file] for file in benchmarks],
        )


def benchmark_files(filters: Filters) -> list[Path]:
    """The files of all benchmarks, in order."""
    return [
        file
        for number, benchmark in enumerate(filters.benchmarks)
        for file in named_files(benchmark.path, f"data.filters.benchmarks[{number}]")
    ]


def input_differences(made: Inputs, now: Inputs) -> dict[str, tuple[Any, Any]]:
    """What differs between the inputs of two sets of shards: name -> (value then, value now)."""
    differing = differences(made.settings, now.settings) | tokenizer_differences(made.tokenizer, now.tokenizer)
    then_tasks, now_tasks = ([(labelled(task), task.format) for task in inputs.tasks] for inputs in (made, now))
    if then_tasks != now_tasks:
        return {**differing, "tasks (name, format)": (then_tasks, now_tasks)}
    for then, task in zip(made.tasks, now.tasks, strict=True):
        if [file.blake2b for file in then.all_files] != [file.blake2b for file in task.all_files]:
            differing[f'sources of task "{task.name}"'] = (_listed(then.all_files), _listed(task.all_files))
    if [file.blake2b for file in made.benchmarks] != [file.blake2b for file in now.benchmarks]:
        differing["benchmarks"] = (_listed(made.benchmarks), _listed(now.benchmarks))
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


def tokenizer_differences(made: TokenizerIdentity, now: TokenizerIdentity) -> dict[str, tuple[Any, Any]]:
    """Only contents count: the same tokenizer may lie elsewhere."""
    differing = {}
    if made.hash != now.hash:
        differing["tokenizer"] = (f"{made.path} ({made.hash})", f"{now.path} ({now.hash})")
    if made.chat_template_hash != now.chat_template_hash:
        differing["chat template"] = (made.chat_template_hash, now.chat_template_hash)
    return differing


def labelled(task: Task | TaskSource) -> str:
    """The task's name, with the settings of it that decide what its records become where they are not the defaults."""
    settings = task.model_dump(include=_READING, exclude_defaults=True)
    return f"{task.name} {json.dumps(settings, sort_keys=True, ensure_ascii=False)}" if settings else task.name


def _listed(files: Iterable[FileEntry]) -> str:
    return ", ".join(f"{file.path} ({file.size} bytes, {file.blake2b[:8]}…)" for file in files)


def vocabulary_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Of all that turns text into ids, the chat template apart."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # this and padding change with use and never reach the shards
    backend.no_padding()
    contents = hashlib.blake2b(backend.to_str().encode(), digest_size=16).hexdigest()
    return json_hash([contents, tokenizer.special_tokens_map])


def json_hash(value: Any) -> str:
    """128 bits, hexadecimal, of a JSON value; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_hash(file: Path) -> str:
    """128 bits, hexadecimal, of a file's contents."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
