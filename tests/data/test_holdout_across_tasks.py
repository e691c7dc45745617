"""What one task, or one config, holds out of a source file, no other trains on."""

import json

import pytest

from mftcoder.config.load import parse
from mftcoder.data.prepare import prepare
from mftcoder.data.shards import Shards

FILES = [f"package/module_{n}.py" for n in range(300)]


@pytest.fixture
def configs(base_model, tmp_path):
    """Two configs: the text of all files, and two tasks with many records of some files and none of others."""
    conversation = {"completion": lambda n: n % 5, "comment": lambda n: 40 if n < 3 else n % 2}
    with (tmp_path / "text.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": "x = 1\n" * 9, "group": name}) + "\n" for name in FILES)
    for task, count in conversation.items():
        with (tmp_path / f"{task}.jsonl").open("w") as file:
            for n, name in enumerate(FILES):
                for part in range(count(n)):
                    record = {"prompt": f"{task} {part}", "completion": f"file {n}", "group": name}
                    file.write(json.dumps(record) + "\n")

    def config(name, tasks):
        listed = [{"name": task, "path": str(tmp_path / f"{task}.jsonl")} for task in tasks]
        data = {"sequence_length": 32, "validation_fraction": 0.1, "tasks": listed}
        return parse({"output_dir": str(tmp_path / name), "model": {"path": str(base_model)}, "data": data})

    return tmp_path, [config("base", ["text"]), config("tasks", list(conversation))]


def test_no_file_is_held_out_in_one_task_and_trained_on_in_another(configs):
    folder, both = configs
    trained, held = set(), set()
    for config in both:
        prepare(config, tell=lambda message: None)
        shards = Shards.open(f"{config.output_dir}/shards")
        for task in shards.tasks:
            groups = [json.loads(line)["group"] for line in (folder / f"{task}.jsonl").read_text().splitlines()]
            pieces = 1 if task != "text" else shards.manifest.task(task).samples // len(groups)
            of = {
                split: {groups[i // pieces] for row in shards.rows(task, split) for i in row.sample_ids.tolist()}
                for split in ("train", "probe", "validation")
            }
            assert of["probe"]
            assert of["validation"]
            trained |= of["train"]
            held |= of["probe"] | of["validation"]
    assert not trained & held
    assert trained | held == set(FILES)
