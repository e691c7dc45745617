import json
from pathlib import Path

import pytest

from mftcoder.config import Config, load, parse
from mftcoder.config.load import apply_override, read_json
from mftcoder.errors import MftcoderError

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.json") if path.name != "schema.json")


def write(folder: Path, text: str) -> Path:
    path = folder / "config.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_config_loads(path):
    assert len(load(path).data.tasks) >= 1


def test_there_are_example_configs():
    assert len(CONFIGS) >= 4


def test_a_dumped_config_loads_as_itself(minimal, tmp_path):
    minimal["loss"] = {"weighting": {"type": "coba", "probe": {"every_steps": 7}}}
    config = parse(minimal)
    path = write(tmp_path, json.dumps(config.model_dump(mode="json")))
    assert load(path) == config


def test_the_schema_key_of_editors_has_no_effect(minimal):
    assert parse(minimal | {"$schema": "schema.json"}) == parse(minimal)


def test_a_config_cannot_be_changed(minimal):
    with pytest.raises(ValueError, match="frozen"):
        parse(minimal).seed = 1


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("training.learning_rate=1e-5", ("training", "learning_rate"), 1e-5),
        ("output_dir=runs/a=b", ("output_dir",), "runs/a=b"),
        ("data.tasks.1.path=c.jsonl", ("data", "tasks", 1, "path"), "c.jsonl"),
        ('data.tasks.0.path=["x","y"]', ("data", "tasks", 0, "path"), ["x", "y"]),
        ("loss.weighting.probe.every_steps=3", ("loss", "weighting", "probe", "every_steps"), 3),
        ("model.lora=null", ("model", "lora"), None),
        ("training.save_best=false", ("training", "save_best"), False),
        ("model.path=NaN", ("model", "path"), "NaN"),
    ],
)
def test_set_changes_exactly_one_key(minimal, override, keys, value):
    before = json.loads(json.dumps(minimal))
    apply_override(minimal, override)
    node = minimal
    for key in keys:
        node = node[key]
    assert node == value
    assert type(node) is type(value)
    node, last = before, keys[-1]
    for key in keys[:-1]:
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    node[last] = value
    assert minimal == before


def test_set_reaches_the_config_and_later_ones_win(minimal, tmp_path):
    config = load(write(tmp_path, json.dumps(minimal)), ["seed=1", "model.lora.rank=8", "seed=2"])
    assert isinstance(config, Config)
    assert (config.seed, config.model.lora.rank) == (2, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "must be KEY=VALUE"),
        ("=1", "must be KEY=VALUE"),
        ("training..x=1", "must be KEY=VALUE"),
        ("data.tasks.2.path=x", 'there is no "2" in data.tasks, which is a list of 2'),
        ("data.tasks.first.path=x", 'there is no "first" in data.tasks'),
        ("output_dir.x=1", 'there is no "x" in output_dir, which is "runs/x"'),
    ],
)
def test_a_set_that_leads_nowhere_is_an_error(minimal, override, message):
    with pytest.raises(MftcoderError) as caught:
        apply_override(minimal, override)
    assert str(caught.value).startswith(f"--set {override}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "", "the file is empty"),
        (" \n", "", "the file is empty"),
        ('{\n  "seed": 1,\n}', ":3:1", "broken JSON"),
        ('{"seed" 1}', ":1:9", "broken JSON"),
        ("[1]", "", "must hold a JSON object; found [1]"),
        ('{"seed": NaN}', "", "NaN is not a JSON value"),
        ('{"seed": 1, "seed": 2}', "", 'the key "seed" stands twice'),
    ],
)
def test_a_file_that_is_no_json_object_is_an_error_with_its_place(tmp_path, text, where, what):
    path = write(tmp_path, text)
    with pytest.raises(MftcoderError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}{where}: ")
    assert what in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(MftcoderError, match="no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(MftcoderError, match="cannot be read"):
        read_json(tmp_path)
    (tmp_path / "latin.json").write_bytes('{"é": 1}'.encode("latin-1"))
    with pytest.raises(MftcoderError, match="not UTF-8 text"):
        read_json(tmp_path / "latin.json")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"seed": 1}')
    assert read_json(path) == {"seed": 1}
