"""Where task files may lie, and what is said when they do not."""

import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import fsspec
import pytest
from test_reading import GOOD

from mftcoder.config.schema import Task
from mftcoder.data.location import located
from mftcoder.data.prepare import prepare
from mftcoder.data.reading import parts, read_part
from mftcoder.data.records import Text
from mftcoder.data.sources import source_files
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError


def task(*paths: object) -> Task:
    return Task(name="t", path=[str(path) for path in paths])


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"text": text}) + "\n")
    return file


def texts(*paths: object) -> list[str]:
    return [record.text for record in read_records(task(*paths)) if isinstance(record, Text)]


@pytest.fixture
def memory() -> Iterator[str]:
    """A file system of this process alone, as a URL."""
    yield "memory://corpus"
    fsspec.filesystem("memory").rm("/corpus", recursive=True)


def test_links_are_followed_and_every_file_is_read_once(tmp_path: Path) -> None:
    inner = write(tmp_path / "real" / "inner" / "b.jsonl", "b").parent
    write(tmp_path / "elsewhere" / "c.jsonl", "c")
    (tmp_path / "real" / "a.jsonl").symlink_to(inner / "b.jsonl")
    (tmp_path / "real" / "again").symlink_to(inner)
    (tmp_path / "real" / "outside").symlink_to(tmp_path / "elsewhere")
    (inner / "loop").symlink_to(tmp_path / "real")
    assert texts(tmp_path / "real") == ["b", "c"]
    with pytest.raises(MftcoderError, match=r"b\.jsonl is named twice \(also as .*real/a\.jsonl\)\. List it once"):
        texts(tmp_path / "real", inner / "b.jsonl")


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    for path in (tmp_path, tmp_path / "a.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(MftcoderError, match=r"a\.jsonl is no regular file"):
            source_files(task(path))
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(MftcoderError, match=r"a\.jsonl is a link to nothing"):
        source_files(task(tmp_path))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "open" / "a.jsonl", "a")
    closed = write(tmp_path / "closed" / "b.jsonl", "b").parent
    closed.chmod(0)
    list_folder = os.scandir

    def as_a_user(path: str) -> object:  # root may list any folder
        if not stat.S_IMODE(os.stat(path).st_mode):
            raise PermissionError(13, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", as_a_user)
    try:
        with pytest.raises(MftcoderError, match=r"Permission denied: '.*closed'"):
            source_files(task(tmp_path))
    finally:
        closed.chmod(0o700)


def test_folders_files_and_globs_of_a_remote_file_system(memory: str) -> None:
    for name in ["b.jsonl", "a.jsonl", "inner/c.jsonl", "README.md"]:
        write(located(f"{memory}/{name}"), name)
    assert texts(memory) == ["a.jsonl", "b.jsonl", "inner/c.jsonl"]
    assert texts(f"{memory}/b.jsonl", f"{memory}/inner") == ["b.jsonl", "inner/c.jsonl"]
    assert texts(f"{memory}/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert texts(f"{memory}/**/c.jsonl") == ["inner/c.jsonl"]
    assert next(read_records(task(memory))).where == f"{memory}/a.jsonl:1"
    with pytest.raises(MftcoderError, match=rf"path {memory}/d\.jsonl does not exist"):
        texts(f"{memory}/d.jsonl")
    with pytest.raises(MftcoderError, match=r"a\.jsonl is named twice"):
        texts(memory, f"{memory}/a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_remote_files_are_read_like_local_ones(tmp_path: Path, memory: str, name: str) -> None:
    local, remote = tmp_path / name, located(f"{memory}/{name}")
    remote.parent.mkdir(parents=True, exist_ok=True)
    for file in (local, remote):
        file.write_bytes(GOOD[name.removeprefix("a")])
    for size in (100, 10**9):
        expected = [record for part in parts(local, size) for _, record in read_part(part)]
        assert [record for part in parts(remote, size) for _, record in read_part(part)] == expected
        assert [part[1:] for part in parts(remote, size)] == [part[1:] for part in parts(local, size)]


def test_urls_may_be_chained_and_may_be_local(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ["b", "inner/c"]:
            archive.writestr(f"{name}.jsonl", json.dumps({"text": name}))
    assert texts(f"zip://::file://{tmp_path}/all.zip") == ["b", "inner/c"]
    assert texts(f"zip://*.jsonl::{tmp_path}/all.zip") == ["b"]
    file = write(tmp_path / "a.jsonl", "a")
    assert source_files(task(f"file://{file}")) == source_files(task(f"file://{tmp_path}/*.jsonl")) == [file]


def test_a_file_system_that_is_not_there_is_named() -> None:
    fsspec.register_implementation("unbuilt", "no_such_package.FileSystem", clobber=True, errtxt="Install unbuilt-fs")
    with pytest.raises(MftcoderError, match=r"unbuilt://b/a\.jsonl: cannot be opened: Install unbuilt-fs"):
        source_files(task("unbuilt://b/a.jsonl"))
    with pytest.raises(MftcoderError, match=r"s4://b/a\.jsonl: cannot be opened: Unsupported filesystem: 's4'"):
        source_files(task("s4://b/a.jsonl"))


def test_any_error_of_a_remote_file_system_names_the_file(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentialsError(Exception):
        """As botocore's: derived from nothing that we know."""

    def fail(*_: object, **__: object) -> None:
        raise NoCredentialsError("no credentials")

    write(located(f"{memory}/a.jsonl"), "a")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_open", fail)
    with pytest.raises(MftcoderError, match=r"a\.jsonl: cannot be read: no credentials\. Restore it"):
        texts(memory)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", fail)
    with pytest.raises(MftcoderError, match=r"path memory://corpus: cannot be searched: no credentials\. Restore it"):
        texts(memory)


def test_shards_do_not_depend_on_where_the_task_files_lie(make_config: Callable, tmp_path: Path, memory: str) -> None:
    records = [{"text": f"def add{i}(a, b):\n    return a + b\n"} for i in range(30)]
    local = make_config({"t": records})
    content = (tmp_path / "t.jsonl").read_bytes()
    located(memory).mkdir(parents=True, exist_ok=True)
    located(f"{memory}/t.jsonl").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.jsonl", content)
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    expected = prepare(local, tell=lambda _: None).fingerprint
    for number, (source, num_workers) in enumerate(
        [
            ({"path": f"{memory}/*.jsonl"}, 1),
            ({"path": f"zip://t.jsonl::{tmp_path}/t.zip"}, 2),
            ({"dataset": {"path": str(tmp_path / "saved")}}, 1),
        ]
    ):
        data = local.data.model_copy(update={"tasks": [Task.model_validate({"name": "t", **source})]})
        config = local.model_copy(update={"data": data, "output_dir": str(tmp_path / f"run{number}")})
        assert prepare(config, tell=lambda _: None, num_workers=num_workers).fingerprint == expected
        told: list[str] = []
        prepare(config, tell=told.append)
        assert "exist already and are used as they are" in told[-1]


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hush@127.0.0.1/a.jsonl",
        "https://hush@127.0.0.1/*.jsonl",
        "s3://id:hush@bucket/a.jsonl",
        "zip://*.jsonl::sftp://me:hush@127.0.0.1/all.zip",
        "https://127.0.0.1/a.jsonl?X-Amz-Date=1&X-Amz-Signature=hush",
        "https://127.0.0.1/a.jsonl?token=hush",
    ],
)
def test_a_url_that_holds_a_secret_is_refused_and_not_repeated(url: str, make_config: Callable) -> None:
    for read in (lambda: texts(url), lambda: prepare(make_config({"t": []}, shards=url), tell=print)):
        with pytest.raises(MftcoderError, match="holds a password, token or signature") as caught:
            read()
        assert "hush" not in str(caught.value)


def test_a_name_that_looks_like_a_secret_is_none(memory: str) -> None:
    write(located(f"{memory}/me@host:1/token=1.jsonl"), "a")
    assert texts(f"{memory}/me@host:1/*.jsonl") == texts(f"{memory}/me@host:1/toke?=1.jsonl") == ["a"]
