"""Shards on a remote file system are copied once to this host, checked, and mapped from there."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mftcoder.data.location import located
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Rows, Shards
from mftcoder.errors import MftcoderError

RECORDS = {"code": [{"text": f"def add{i}(a, b):\n    return a + b\n" * (1 + i % 5)} for i in range(40)]}
REMOTE = "memory://bucket/shards"


@pytest.fixture
def made(make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shards; this host's copies have a place of their own."""
    monkeypatch.setenv("MFTCODER_CACHE", str(tmp_path / "cache"))
    config = make_config(RECORDS)
    prepare(config, tell=lambda _: None)
    return shards_path(config)


@pytest.fixture
def bucket(made: Path) -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    memory.put(str(made), "/bucket/shards", recursive=True)
    yield memory
    memory.rm("/bucket", recursive=True)


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "shards").iterdir())


def assert_same_rows(some: Rows, others: Rows) -> None:
    for row, other in zip(some, others, strict=True):
        for array, expected in zip(row, other, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_remote_shards_are_copied_once_and_read_from_the_copy(
    made: Path, bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    shards = Shards.open(REMOTE, verify="full")
    (copy,) = copies(tmp_path)
    assert shards.folder == copy
    for split in ("train", "probe", "validation"):
        assert_same_rows(shards.rows("code", split), Shards.open(made).rows("code", split))
    bucket.rm("/bucket/shards/code", recursive=True)  # only the manifest is still needed
    assert Shards.open(REMOTE).folder == copy


def test_a_url_of_this_machine_is_not_copied(made: Path, tmp_path: Path) -> None:
    assert Shards.open(f"file://{made}").folder == made
    assert not (tmp_path / "cache").exists()


def test_other_shards_at_the_same_url_are_another_copy(
    bucket: fsspec.AbstractFileSystem, make_config: Callable, tmp_path: Path
) -> None:
    first = Shards.open(REMOTE)
    config = make_config({"code": RECORDS["code"][:30]}, output="again")
    prepare(config, tell=lambda _: None)
    bucket.rm("/bucket/shards", recursive=True)
    bucket.put(str(shards_path(config)), "/bucket/shards", recursive=True)
    assert Shards.open(REMOTE).manifest.fingerprint != first.manifest.fingerprint
    assert len(copies(tmp_path)) == 2


def test_what_was_left_by_a_killed_copy_is_no_copy(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    whole = Shards.open(REMOTE).folder
    partial = whole.with_name(f"{whole.name}.partial")
    whole.rename(partial)
    (partial / "code" / "stray").write_text("left")
    assert Shards.open(REMOTE, verify="full").folder == whole
    assert copies(tmp_path) == [whole]
    assert not (whole / "code" / "stray").exists()


@pytest.mark.parametrize("name", ["train/data-00000-of-00001.arrow", "probe/state.json"])
def test_files_that_are_not_what_was_written_never_become_a_copy(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, name: str
) -> None:
    file = located(f"{REMOTE}/code/{name}")
    content = file.read_bytes()
    for damaged, message in [
        (content[:20] + bytes([content[20] ^ 1]) + content[21:], f"code/{name}: is damaged: "),
        (content[:-8], f"code/{name}: is damaged: {len(content) - 8} bytes"),
    ]:
        file.write_bytes(damaged)
        with pytest.raises(MftcoderError, match=message):
            Shards.open(REMOTE)
    file.unlink()
    with pytest.raises(MftcoderError, match=f"code/{name}: cannot be copied"):
        Shards.open(REMOTE)
    assert [path.suffix for path in copies(tmp_path)] == [".partial"]
    file.write_bytes(content)
    Shards.open(REMOTE, verify="full")


def test_a_damaged_copy_says_how_to_get_another(bucket: fsspec.AbstractFileSystem) -> None:
    copy = Shards.open(REMOTE).folder
    file = copy / "code" / "train" / "data-00000-of-00001.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    Shards.open(REMOTE)
    with pytest.raises(MftcoderError, match=rf"arrow: is damaged: .* Remove {copy}: it is copied anew"):
        Shards.open(REMOTE, verify="full")
    shutil.rmtree(copy)
    Shards.open(REMOTE, verify="full")


def test_a_manifest_cannot_have_files_written_elsewhere(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    from mftcoder.data import copies as module
    from mftcoder.data.inputs import FileEntry

    outside = FileEntry(path="../../outside", size=1, blake2b="0")
    with pytest.raises(MftcoderError, match=r"the file \.\./\.\./outside lies outside the shards"):
        module._copy(located(REMOTE), outside, tmp_path / "a" / "b")


def test_a_remote_folder_without_shards_is_named() -> None:
    with pytest.raises(MftcoderError, match=r"memory://nowhere: holds no manifest\.json, so no complete shards"):
        Shards.open("memory://nowhere")


def test_shards_are_not_made_in_a_remote_folder(make_config: Callable) -> None:
    config = make_config(RECORDS, shards="memory://bucket/new")
    with pytest.raises(MftcoderError, match=r"made in a folder of this machine; found memory://bucket/new"):
        prepare(config, tell=lambda _: None)


def _open(url: str, started: object, copied: object) -> None:
    started.wait()  # type: ignore[attr-defined]
    copied.put(str(Shards.open(url, verify="full").folder))  # type: ignore[attr-defined]


def test_processes_of_one_host_wait_for_one_copy(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive = shutil.make_archive(str(tmp_path / "shards"), "zip", made)
    context = multiprocessing.get_context("fork")
    started, copied = context.Barrier(3), context.Queue()
    ranks = [context.Process(target=_open, args=(f"zip://::file://{archive}", started, copied)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    folders = {copied.get(timeout=60) for _ in ranks}
    for rank in ranks:
        rank.join()
    (folder,) = copies(tmp_path)
    assert folders == {str(folder)}
    assert capfd.readouterr().err.count("copying") == 1


def _shared_and_own(files: tuple[Path, ...], answers: object, done: object) -> None:
    rows = Rows(files)
    assert sum(int(row.input_ids.sum()) for row in rows) > 0
    mapped = Path("/proc/self/smaps").read_text().split("\n")
    starts = [index for index, line in enumerate(mapped) if line.endswith(".arrow")]
    kinds: dict[str, int] = {}
    for start in starts:
        for line in mapped[start + 1 : start + 20]:
            kind, _, value = line.partition(":")
            if kind.startswith(("Rss", "Private_Dirty", "Shared_Dirty")):
                kinds[kind] = kinds.get(kind, 0) + int(value.split()[0])
    answers.put(kinds)  # type: ignore[attr-defined]
    done.wait()  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux shows what is mapped")
def test_rows_are_mapped_so_that_processes_share_the_page_cache(made: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers, done = context.Queue(), context.Barrier(3)
    files = Shards.open(made).rows("code").files
    ranks = [context.Process(target=_shared_and_own, args=(files, answers, done)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    found = [answers.get(timeout=60) for _ in ranks]
    done.wait()
    for rank in ranks:
        rank.join()
    for kinds in found:
        assert kinds["Rss"] > 0
        assert kinds["Private_Dirty"] == kinds["Shared_Dirty"] == 0  # nothing of the files is a process's own
