"""What a config holds out: a share, a number, files of their own; of all tasks or of one; and what leaks."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from mftcoder.config.schema import Config, HubDataset
from mftcoder.data.manifest import Manifest, changed_sources
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.data.summary import notes, table
from mftcoder.errors import MftcoderError

LEAK = "training samples are held out too: the same record or group, in this or another task"


def records(name: str, count: int, **more) -> list[dict]:
    return [{"prompt": f"{name} {n}", "completion": f"answer {n}"} | more for n in range(count)]


def with_task(config: Config, name: str, **changes) -> Config:
    tasks = [task.model_copy(update=changes) if task.name == name else task for task in config.data.tasks]
    return config.model_copy(update={"data": config.data.model_copy(update={"tasks": tasks})})


def write(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def made(config: Config) -> tuple[Manifest, Shards]:
    manifest = prepare(config, tell=lambda _: None)
    return manifest, Shards.open(shards_path(config))


def sizes(manifest: Manifest, task: str) -> dict[str, int]:
    return {split: counts.samples for split, counts in manifest.task(task).splits.items()}


def notes_of(manifest: Manifest, task: str) -> str:
    return "; ".join(notes(manifest.task(task), manifest.inputs.settings))


def test_a_number_of_samples_and_what_a_task_says_itself(make_config):
    tasks = {"a": records("a", 50), "b": records("b", 50), "c": records("c", 50), "d": records("d", 12)}
    config = make_config(tasks, validation_samples=20)
    config = with_task(with_task(config, "b", validation_fraction=0.1), "c", validation_fraction=0.0)
    manifest, _ = made(config)
    assert sizes(manifest, "a") == {"train": 30, "probe": 10, "validation": 10}
    assert sizes(manifest, "b") == {"train": 45, "probe": 3, "validation": 2}
    assert sizes(manifest, "c") == {"train": 50}
    assert sizes(manifest, "d") == {"train": 6, "probe": 3, "validation": 3}
    assert notes_of(manifest, "a") == ""
    assert notes_of(manifest, "c") == "no validation: validation_fraction is 0"
    assert notes_of(manifest, "d") == "6 samples are held out, where 20 were asked for: at most half are"


def test_files_of_their_own_are_held_out_whole_and_nothing_else_is(make_config, tmp_path):
    config = make_config({"a": records("a", 30), "b": records("b", 30)}, validation_fraction=0.2)
    held = records("held", 8)
    config = with_task(config, "a", validation=write(tmp_path / "held.jsonl", held))
    manifest, shards = made(config)
    assert sizes(manifest, "a") == {"train": 30, "probe": 4, "validation": 4}
    assert sizes(manifest, "b")["train"] == 24
    ids = {
        split: sorted(i for row in shards.rows("a", split) for i in row.sample_ids) for split in sizes(manifest, "a")
    }
    assert ids["train"] == list(range(30))
    assert sorted(ids["probe"] + ids["validation"]) == list(range(30, 38))
    assert notes_of(manifest, "a") == ""


def test_records_that_stand_in_training_and_in_the_given_files_are_counted_and_told(make_config, tmp_path):
    named = records("named", 3, group="g")
    config = make_config({"a": records("a", 20) + records("a", 2) + named}, validation_fraction=0.2)
    held = [*records("a", 5), *records("held", 4), {"prompt": "x", "completion": "y", "group": "g"}]
    config = with_task(config, "a", validation=write(tmp_path / "held.jsonl", held))
    manifest, _ = made(config)
    assert manifest.task("a").leaked == 5 + 2 + 3  # a 0 to a 4, of which two are there twice; the group "g"
    assert f"10 {LEAK}" in notes_of(manifest, "a")
    assert "10 training samples" in " ".join(table(manifest).caption.split())


def test_what_one_task_holds_out_and_another_trains_on_is_counted(make_config):
    tasks = {
        name: [record | {"group": f"file {n}"} for n, record in enumerate(records(name, 200))] for name in ("a", "b")
    }
    alike, _ = made(make_config(tasks, output="alike", validation_fraction=0.1))
    assert [task.leaked for task in alike.tasks] == [0, 0]
    config = with_task(make_config(tasks, output="unlike", validation_fraction=0.1), "b", validation_fraction=0.4)
    unlike, shards = made(config)
    groups = {}
    for task in ("a", "b"):
        for side, splits in {"train": ["train"], "held": ["probe", "validation"]}.items():
            rows = [row for split in splits for row in shards.rows(task, split)]
            groups[task, side] = set(np.concatenate([row.sample_ids for row in rows]).tolist())
    assert unlike.task("a").leaked == len(groups["a", "train"] & groups["b", "held"]) > 30
    assert unlike.task("b").leaked == len(groups["b", "train"] & groups["a", "held"]) == 0


def test_a_task_of_one_sample_trains_and_says_that_it_has_no_validation(make_config):
    manifest, _ = made(make_config({"a": records("a", 1), "b": records("b", 40)}, validation_samples=4))
    assert sizes(manifest, "a") == {"train": 1}
    assert notes_of(manifest, "a") == "no validation: there is only one group of samples"


def test_only_a_changed_validation_file_is_tokenized_again_and_old_shards_are_refused(make_config, tmp_path):
    held = tmp_path / "held.jsonl"
    config = with_task(make_config({"a": records("a", 9)}), "a", validation=write(held, records("held", 4)))
    before, _ = made(config)
    write(held, records("changed", 5))
    assert changed_sources(before, config)
    with pytest.raises(MftcoderError, match="sources of task"):
        prepare(config, tell=lambda _: None)
    said: list[str] = []
    after = prepare(config, tell=said.append, overwrite=True)
    assert any("1 of 2 parts are tokenized already" in line for line in said)
    assert sizes(after, "a") == {"train": 9, "probe": 3, "validation": 2}
    with pytest.raises(MftcoderError, match="held_out"):
        prepare(with_task(config, "a", validation=None), tell=lambda _: None)


def test_a_split_of_a_dataset_is_held_out_like_files(make_config, tmp_path):
    for split, count in {"train": 12, "test": 5}.items():
        write(tmp_path / f"{split}.jsonl", records(split, count))
    datasets.load_dataset(
        "json", data_files={split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    ).save_to_disk(tmp_path / "saved")
    config = make_config({"a": records("a", 9)}, validation_samples=3)
    source = HubDataset(path=str(tmp_path / "saved"), validation_split="test")
    manifest, _ = made(with_task(config, "a", path=None, dataset=source))
    assert sizes(manifest, "a") == {"train": 12, "probe": 3, "validation": 2}


def test_a_validation_file_that_is_not_there_is_named(make_config):
    config = with_task(make_config({"a": records("a", 9)}), "a", validation="absent.jsonl")
    with pytest.raises(MftcoderError, match=r'data.tasks "a": path absent.jsonl does not exist'):
        prepare(config, tell=lambda _: None)


def test_training_files_that_give_nothing_are_no_task_whatever_is_held_out(make_config, tmp_path):
    config = make_config({"a": [{"prompt": "x", "completion": "y " * 300}]}, over_long="drop")
    config = with_task(config, "a", validation=write(tmp_path / "held.jsonl", records("held", 4)))
    with pytest.raises(MftcoderError, match="no supervised token is left to train on"):
        prepare(config, tell=lambda _: None)


def test_files_for_training_and_for_validation_are_different_ones(make_config, tmp_path):
    (tmp_path / "other.jsonl").symlink_to(tmp_path / "a.jsonl")
    for held_out in ("a.jsonl", "other.jsonl"):
        config = with_task(make_config({"a": records("a", 9)}), "a", validation=str(tmp_path / held_out))
        with pytest.raises(
            MftcoderError, match=f'data.tasks "a": .*{held_out} is both for training and for validation'
        ):
            prepare(config, tell=lambda _: None)


def test_validation_files_alone_make_no_task(make_config, tmp_path):
    held_out = write(tmp_path / "held.jsonl", records("held", 4, kind="x"))
    config = make_config({"a": records("a", 9)})
    config = with_task(config, "a", validation=held_out, where={"kind": "x"}, format="prompt_completion")
    with pytest.raises(MftcoderError, match=r'data\.tasks "a": no record has \{"kind": "x"\}'):
        prepare(config, tell=lambda _: None)
