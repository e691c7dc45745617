"""Targets: records in every container, chat templates, shards."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mutations import STRINGS, as_bytes, chance, damaged, spoilt
from oracle import command
from tiny import CHATML, tiny_llama, tiny_tokenizer

from mftcoder.config.schema import Config, Task
from mftcoder.data.encoding import Encoder
from mftcoder.data.inputs import file_hash
from mftcoder.data.loader import collate
from mftcoder.data.manifest import Manifest, _fingerprint
from mftcoder.data.parts import encoded_parts, find_parts
from mftcoder.data.prepare import prepare
from mftcoder.data.reading import parts, read_part, stop
from mftcoder.data.records import RECORD_FORMATS
from mftcoder.data.shards import Shards
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError

Run = Callable[[Random], None]
SAMPLES = Path(__file__).parents[2] / "data" / "samples"
RECORDS: list[Any] = [json.loads(line) for file in sorted(SAMPLES.iterdir()) for line in file.read_text().splitlines()]
BY_FORMAT = [[json.loads(line) for line in file.read_text().splitlines()] for file in sorted(SAMPLES.iterdir())]
CONVERSATIONS = [json.loads(line) for line in (SAMPLES / "sharegpt.jsonl").read_text().splitlines()]
CONTAINERS = ["jsonl", "json", "jsonl.gz", "jsonl.bz2", "jsonl.zst", "json.gz"]
CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
PIECES = [  # of chat templates
    "{{ messages[0].content }}",
    "{{ message.content | tojson }}",
    "{% generation %}x{% endgeneration %}",
    "{{ raise_exception('no') }}",
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch x') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ 1 / 0 }}",
    "{{ x.y.z }}",
    "{% set x = x %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% if message.role == 'assistant' %}",
    "{% endif %}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ strftime_now('%Y') }}",
    "{{ 'a' * 1000 }}",
    "{{ range(100) | list }}",
    "{{ eos_token }}",
    "{{ messages.append(1) }}",
]


def compressed(data: bytes, suffix: str) -> bytes:
    """``data`` as a file of that last suffix holds it."""
    if suffix not in CODECS:
        return data
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, CODECS[suffix]) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def _encoder(template: str = CHATML) -> Encoder:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return Encoder(tokenizer, seed=0, sequence_length=32)


def _encoded(encoder: Encoder, file: Path, format: str) -> None:
    """What is made of the records in ``file``; whoever refuses them names the file or the task."""
    task = Task(name="t", path=str(file), format=format)
    try:
        encoder(list(read_records(task)), task)
    except MftcoderError as error:
        if str(file) not in str(error) and 'data.tasks "t"' not in str(error):
            raise AssertionError(f"names no place: {error}") from error
        raise


def records(folder: Path) -> Run:
    encoder = _encoder()

    def run(random: Random) -> None:
        kind = random.choice([RECORDS, *BY_FORMAT])
        chosen = [random.choice(kind) for _ in range(random.randint(1, 3))]
        chosen = [spoilt(random, record) if chance(random, 0.5) else record for record in chosen]
        container = random.choice(CONTAINERS)
        lines = [as_bytes(random, record, damage=0.08) for record in chosen]
        data = b"\n".join(lines) if container.startswith("jsonl") else b"[" + b",".join(lines) + b"]"
        data = compressed(data, container.rpartition(".")[2])
        file = folder / f"records.{container}"
        file.write_bytes(damaged(random, data) if chance(random, 0.15) else data)
        for part in parts(file, 40):
            for _ in _until_refused(read_part(part, stop)):
                pass
        _encoded(encoder, file, random.choice([*["auto"] * 20, *RECORD_FORMATS]))

    return run


def _until_refused(found: Any) -> Any:
    try:
        yield from found
    except MftcoderError:
        return


def tables(folder: Path) -> Run:
    """Parquet and Arrow: columns of any kind, and damaged bytes."""
    encoder = _encoder()

    def run(random: Random) -> None:
        rows = [spoilt(random, record) if chance(random, 0.3) else record for record in random.choice(BY_FORMAT)]
        try:
            table = pa.Table.from_pylist([row for row in rows if _is_flat(row)] or [{"text": "a"}])
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError, RecursionError):
            table = pa.table({"text": ["a", None, "b"]})
        sink = io.BytesIO()
        suffix = random.choice(["parquet", "arrow"])
        try:
            if suffix == "parquet":
                pq.write_table(table, sink, compression=random.choice(["none", "snappy", "zstd", "gzip"]))
            else:
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
        except (pa.ArrowException, OSError):  # the container has no such type
            return
        data, file = sink.getvalue(), folder / f"records.{suffix}"
        file.write_bytes(damaged(random, data) if chance(random, 0.7) else data)
        for part in parts(file, 40):
            list(read_part(part))
        _encoded(encoder, file, "auto")

    return run


def _is_flat(row: Any) -> bool:
    """Arrow takes gigabytes to write what is nested hundreds of times."""
    text = json.dumps(row)
    return isinstance(row, dict) and "[" * 30 not in text and '{"a": ' * 30 not in text


def templates(folder: Path) -> Run:
    tokenizer, file = tiny_tokenizer(), folder / "chat.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in CONVERSATIONS))
    words = [*PIECES, *STRINGS[1:9], "{{", "}}", "{%", "%}", "{#", "-"]

    def run(random: Random) -> None:
        template = CHATML
        for _ in range(random.randint(1, 3)):
            start = random.randint(0, len(template))
            stop = start + random.choice([0, 0, 1, 5, 30])
            template = template[:start] + random.choice(words) + template[stop:]
        tokenizer.chat_template = template
        _encoded(Encoder(tokenizer, seed=0, sequence_length=32), file, "auto")

    return run


def project(folder: Path) -> Config:
    """A config with a model of two layers and two small tasks of conversations, all in ``folder``."""
    tiny_llama().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    tasks = []
    for name in ("one", "two"):
        lines = (json.dumps({"prompt": f"{name} {i}", "completion": "yes " * (i % 7 + 1)}) + "\n" for i in range(30))
        (folder / f"{name}.jsonl").write_text("".join(lines))
        tasks.append({"name": name, "path": str(folder / f"{name}.jsonl")})
    raw = {
        "output_dir": str(folder / "run"),
        "model": {"path": str(folder / "model")},
        "data": {"shards": str(folder / "shards"), "sequence_length": 48, "validation_fraction": 0.2, "tasks": tasks},
    }
    (folder / "config.json").write_text(json.dumps(raw))
    return Config.model_validate(raw)


def _quietly(message: str) -> None:
    del message


def shards(folder: Path) -> Run:
    """Manifests and Arrow files of shards; half of the manifests get the fingerprint that fits what was spoilt."""
    good = prepare(project(folder), tell=_quietly, num_workers=1).model_dump(mode="json")
    made, file = folder / "shards", folder / "shards" / "manifest.json"
    arrow = next(iter(sorted(made.rglob("*.arrow"))))
    whole = arrow.read_bytes()

    def run(random: Random) -> None:
        manifest = good
        if chance(random, 0.7):
            part = random.choice(["tasks", "tasks", "inputs", "all"])
            manifest = spoilt(random, good) if part == "all" else {**good, part: spoilt(random, good[part])}
        arrow.write_bytes(damaged(random, whole) if chance(random, 0.3) else whole)
        manifest = _fitting(manifest, arrow, made, size_too=chance(random, 0.9))
        file.write_bytes(as_bytes(random, manifest, damage=0.05))
        options = ["--task", "one"] if chance(random, 0.3) else []
        options += random.choice([["--json"], ["--longest"], ["--grep", "yes"], ["--sample", "3"], ["--row", "1"], []])
        if chance(random, 0.5):
            command("inspect", made, *options, "--verify", random.choice(["quick", "full"]))
        else:
            _read_all(Shards.open(made))

    return run


def _fitting(manifest: Any, arrow: Path, made: Path, *, size_too: bool) -> Any:
    """``manifest`` with the fingerprint of its contents, where it is enough of a manifest for that."""
    try:
        if size_too:
            manifest = json.loads(json.dumps(manifest))
            for task in manifest["tasks"]:
                for split in task["splits"].values():
                    for entry in split["files"]:
                        if entry["path"] == str(arrow.relative_to(made)):
                            entry.update(size=arrow.stat().st_size, blake2b=file_hash(arrow))
        parsed = Manifest.model_validate_json(json.dumps(manifest))
        return {**manifest, "fingerprint": _fingerprint(parsed.inputs, parsed.tasks)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return manifest


def _read_all(opened: Shards) -> None:
    for task in opened.tasks:
        for split in ("train", "probe", "validation"):
            for number, row in enumerate(opened.rows(task, split)):
                collate([(0, row)], isolate_samples=True)
                if number == 3:
                    break


def samples(folder: Path) -> Run:
    """The counts beside encoded samples: what does not fit them is made anew."""
    from mftcoder.data.chat import load_tokenizer
    from mftcoder.data.inputs import Inputs

    config = project(folder)
    prepare(config, tell=_quietly, num_workers=1)
    tokenizer = load_tokenizer(config.model, config.data.chat)
    wanted = [
        part for some in encoded_parts(config, Inputs.of(config, tokenizer), folder / "shards.samples") for part in some
    ]
    file = wanted[0].file.with_suffix(".json")
    good, arrow = json.loads(file.read_bytes()), wanted[0].file.read_bytes()

    def run(random: Random) -> None:
        file.write_bytes(as_bytes(random, spoilt(random, good)))
        wanted[0].file.write_bytes(damaged(random, arrow) if chance(random, 0.3) else arrow)
        find_parts(wanted)
        if chance(random, 0.01):
            shutil.rmtree(folder / "shards")
            prepare(config, tell=_quietly, num_workers=1)

    return run
