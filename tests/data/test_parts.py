"""Encoded samples are made once: whatever is repacked, changed, interrupted or damaged, the rows are the same."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mftcoder.data.parts as parts_module
from mftcoder.config.schema import Config
from mftcoder.data.manifest import changed_sources
from mftcoder.data.prepare import prepare, prepare_share, samples_path, shards_path
from mftcoder.data.shards import Shards
from mftcoder.errors import MftcoderError

TASKS = {
    "a": [{"prompt": f"two plus {i}", "answer": "so " * (i % 40) + str(i)} for i in range(120)],
    "b": [{"text": f"def add{i}(a, b):\n    return a + b\n" * (1 + i % 9)} for i in range(60)],
}
MakeConfig = Callable[..., Config]


def quiet(_: str) -> None:
    pass


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few records, so that there are several."""
    monkeypatch.setattr(parts_module, "BYTES_PER_PART", 4000)


def encoded(config: Config) -> dict[str, int]:
    """The encoded parts of ``config`` with the times at which they were written."""
    return {file.name: file.stat().st_mtime_ns for file in samples_path(config).glob("*.arrow")}


def undisturbed(make_config: MakeConfig, tasks: dict[str, list[dict]] = TASKS, **data: object) -> str:
    """The fingerprint of shards made of whole files in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "BYTES_PER_PART", 2**30)
        return prepare(make_config(tasks, output="undisturbed", **data), tell=quiet, overwrite=True).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": 50},
        {"sequence_length": 300},
        {"packing": {"mode": "pad"}},
        {"over_long": "drop", "sequence_length": 40},
        {"validation_fraction": 0.4},
        {"seed": 8},
    ],
)
def test_packing_otherwise_encodes_nothing_anew(make_config: MakeConfig, change: dict) -> None:
    config = make_config(TASKS)
    first = prepare(config, tell=quiet)
    before = encoded(config)
    assert len(before) > 3
    changed = make_config(TASKS, **change)
    second = prepare(changed, tell=quiet, overwrite=True)
    assert encoded(changed) == before
    assert first.fingerprint != second.fingerprint == undisturbed(make_config, **change)


def test_only_changed_and_new_files_are_encoded_anew(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(TASKS)
    prepare(config, tell=quiet)
    before = encoded(config)
    more = TASKS | {"b": [{"text": "so it is said"}] * 3, "c": TASKS["a"][:5]}
    changed = make_config(more)
    for file in tmp_path.glob("*.jsonl"):
        os.utime(file)  # times alone do not count
    manifest = prepare(changed, tell=quiet, overwrite=True)
    assert manifest.fingerprint == undisturbed(make_config, more)
    after = encoded(changed)
    alone = make_config({"a": TASKS["a"]}, output="alone")
    prepare(alone, tell=quiet)
    assert {name for name, time in after.items() if before.get(name) == time} == set(encoded(alone))
    assert len(after) == len(encoded(alone)) + 2  # b and c; what b was made of before is removed


def test_shares_made_apart_and_brought_together_are_as_made_at_once(make_config: MakeConfig) -> None:
    configs = [make_config(TASKS, output=f"machine{i}") for i in range(3)]
    shares = [prepare_share(config, i + 1, 3, tell=quiet) for i, config in enumerate(configs)]
    assert sum(share.parts for share in shares) == shares[0].all_parts > 3
    assert sum(share.records for share in shares) == sum(map(len, TASKS.values()))
    for config in configs[1:]:
        for file in samples_path(config).iterdir():
            file.rename(samples_path(configs[0]) / file.name)
    before = encoded(configs[0])
    manifest = prepare(configs[0], tell=quiet)
    assert encoded(configs[0]) == before
    assert manifest.fingerprint == undisturbed(make_config)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "uncounted"])
def test_a_damaged_part_is_made_again(make_config: MakeConfig, damage: str) -> None:
    config = make_config(TASKS)
    prepare_share(config, 1, 1, tell=quiet)
    before = encoded(config)
    file = samples_path(config) / sorted(before)[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-1])
        case "remove":
            file.unlink()
        case "uncounted":
            file.with_suffix(".json").write_text('{"records": 1')
    os.utime(file.with_suffix(".json"), ns=(0, 0))
    said: list[str] = []
    assert prepare(config, tell=said.append).fingerprint == undisturbed(make_config)
    assert f"{len(before) - 1} of {len(before)} parts are tokenized already" in "\n".join(said)


def test_samples_are_removed_when_they_are_not_to_be_kept_but_never_those_of_others(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(TASKS, keep_samples=False)
    prepare(config, tell=quiet)
    assert not samples_path(config).exists()
    shared = {"samples": str(tmp_path / "samples")}
    first = make_config({"a": TASKS["a"]}, output="first", **shared)
    prepare(first, tell=quiet)
    (tmp_path / "samples" / "notes.arrow").write_text("mine")
    others = encoded(first)
    second = make_config(TASKS, output="second", keep_samples=False, **shared)
    prepare(make_config({"b": TASKS["b"]}, output="third", **shared), tell=quiet)
    prepare(second, tell=quiet)
    assert set(encoded(second)) == {"notes.arrow"}
    assert others


def test_the_same_file_of_two_tasks_is_encoded_once(make_config: MakeConfig, tmp_path: Path) -> None:
    raw = make_config({"a": TASKS["a"]}).model_dump()
    raw["data"]["tasks"].append({**raw["data"]["tasks"][0], "name": "again"})
    config = Config.model_validate(raw)
    manifest = prepare(config, tell=quiet)
    assert manifest.task("again").records == manifest.task("a").records == 120
    alone = make_config({"a": TASKS["a"]}, output="alone")
    prepare(alone, tell=quiet)
    assert set(encoded(config)) == set(encoded(alone))


def test_a_file_that_changed_in_nothing_but_its_length_is_not_needed_to_be_found_stale(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(TASKS)
    manifest = prepare(config, tell=quiet)
    assert changed_sources(manifest, config) == []
    os.utime(tmp_path / "a.jsonl")
    assert changed_sources(manifest, config) == []
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text.replace("plus 7", "plus 8"))
    assert [line.split()[0] for line in changed_sources(manifest, config)] == ['"a"']


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_file_that_changes_while_it_is_tokenized_is_refused_and_spoils_nothing(
    make_config: MakeConfig, tmp_path: Path, num_workers: int
) -> None:
    config = make_config(TASKS)
    original = (tmp_path / "b.jsonl").read_text()

    def change(message: str) -> None:
        if message.startswith('task "b"'):  # what the files hold is known by then, but not yet tokenized
            (tmp_path / "b.jsonl").write_text(original.replace("add1", "sub1"))

    with pytest.raises(MftcoderError, match=r"b\.jsonl: has changed while it was tokenized"):
        prepare(config, tell=change, num_workers=num_workers)
    assert not shards_path(config).exists()
    (tmp_path / "b.jsonl").write_text(original)
    assert prepare(config, tell=quiet).fingerprint == undisturbed(make_config)


def in_a_child(action: Callable[[], None]) -> int:
    """What a forked process that runs ``action`` ends with; forked, as all is imported here already."""
    child = os.fork()
    if child == 0:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(operation: int, folder: Path) -> None:
    """Kills this process at the ``operation``-th of its operations on files below ``folder``."""
    done = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal done
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(folder) in str(arguments[0]):
            done += 1
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_operation_on_files_leaves_whole_shards_or_none_and_the_next_goes_on(
    make_config: MakeConfig, overwrite: bool
) -> None:
    tasks = {name: records[:40] for name, records in TASKS.items()}
    expected = undisturbed(make_config, tasks)
    config = make_config(tasks)
    before = prepare(make_config(tasks, sequence_length=300), tell=quiet).fingerprint if overwrite else None
    folder = shards_path(config)
    operation, found = 1, set()

    def run() -> None:
        kill_at(operation, folder.parent)
        prepare(config, tell=quiet, overwrite=True)

    while (code := in_a_child(run)) == -signal.SIGKILL:
        try:
            found.add(Shards.open(folder, verify="full").manifest.fingerprint)
        except MftcoderError:
            found.add(None)
        operation += 3
    assert code == 0
    assert operation > 20
    assert found <= {None, before, expected}
    assert prepare(config, tell=quiet).fingerprint == expected
    assert sorted(path.name for path in folder.parent.iterdir()) == ["shards", "shards.samples"]


@pytest.mark.parametrize("is_encoded", [False, True])
def test_a_full_disk_ends_with_its_error_and_leaves_nothing_half_written(
    make_config: MakeConfig, is_encoded: bool
) -> None:
    config = make_config(TASKS)
    if is_encoded:
        prepare_share(config, 1, 1, tell=quiet)
    before = encoded(config)

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            prepare(config, tell=quiet)
        except OSError as error:
            os._exit(5 if error.filename else 6)

    assert in_a_child(run) == 5
    assert not shards_path(config).exists()
    assert encoded(config) == before
    assert list(samples_path(config).parent.rglob("*.partial")) == []
    prepare(config, tell=quiet)


def test_all_that_counts_is_on_the_disk_before_it_counts(make_config: MakeConfig, monkeypatch) -> None:
    synced: set[str] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    config = make_config(TASKS)
    manifest = prepare(config, tell=quiet)
    written = {Path(entry.path).name for entry in manifest.files}
    assert synced >= written | {"manifest.json.partial"}
    parts = [file.stem for file in samples_path(config).glob("*.arrow")]
    assert parts
    assert all(any(name.startswith(part) for name in synced) for part in parts)


def test_what_killed_processes_left_is_removed_once_nothing_can_be_writing_to_it(tmp_path: Path) -> None:
    old, new = tmp_path / "a.partial", tmp_path / "b.partial"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 3700,) * 2)
    parts_module.remove_abandoned(tmp_path)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("largest", [2**16 - 1, 2**16, 2**31 - 1])
def test_every_id_of_a_vocabulary_has_room(largest: int) -> None:
    values = parts_module._schema(largest + 1).field("input_ids").type.value_type
    assert parts_module.lists([np.array([7, largest])], values).to_pylist() == [[7, largest]]


def test_a_second_process_waits_for_the_first_and_uses_what_it_made(make_config: MakeConfig) -> None:
    config = make_config(TASKS)
    read, write = os.pipe()

    def other() -> None:
        def say(line: str) -> None:
            os.write(write, f"{line}\n".encode())

        prepare(config, tell=say)

    started = []

    def tell(line: str) -> None:  # comes once the lock is held
        if not started:
            started.append(os.fork())
            if started == [0]:
                os.environ["TOKENIZERS_PARALLELISM"] = "false"
                other()
                os._exit(0)
            assert b"waiting for another process" in os.read(read, 10_000)

    prepare(config, tell=tell)
    assert os.waitpid(started[0], 0)[1] == 0
    assert b"used as they are" in os.read(read, 10_000)
    assert not shards_path(config).with_name("shards.lock").exists()
