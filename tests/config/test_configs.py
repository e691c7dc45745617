"""The configs that we hand out load, agree with each other, resolve, and fit the GPUs that their README names."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from mftcoder.config.deepspeed import resolve
from mftcoder.config.describe import settings
from mftcoder.config.load import load
from mftcoder.config.schema import Config
from mftcoder.training.memory import GIB, plan

ROOT = Path(__file__).parents[2]
README = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
FITS = {name: (int(n), int(gib)) for name, n, gib in re.findall(r"\| \[(.+?)\]\(.+\| (\d+) × (\d+) GiB \|", README)}
OVERRIDES = [shlex.split(text)[0] for text in re.findall(r"`('loss\..+?')`", README)]
LARGE = {"lora-34b-one-node.json", "full-72b-four-nodes.json"}  # a minute each to plan
SPARE = 0.9  # CUDA itself and fragmentation take some, too


def shape(kind: str, width: int, feed_forward: int, layers: int, heads: int, groups: int, vocabulary: int, tied=False):
    """A config.json of a model on the hub."""
    return {
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 16384,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": shape("llama", 576, 1536, 30, 9, 3, 49152, tied=True),
    "Qwen/Qwen2.5-Coder-1.5B": shape("qwen2", 1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-Coder-7B": shape("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "codellama/CodeLlama-34b-hf": shape("llama", 8192, 22016, 48, 64, 8, 32000),
    "Qwen/Qwen2.5-72B": shape("qwen2", 8192, 29568, 80, 64, 8, 152064),
}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A function: the config of that name, its model replaced by a folder that holds the shape alone."""
    monkeypatch.chdir(ROOT)  # paths in configs start at the working directory

    def loaded(name: str, *overrides: str) -> Config:
        config = load(f"configs/{name}", overrides)
        (tmp_path / "config.json").write_text(json.dumps(SHAPES[config.model.path]))
        return config.model_copy(update={"model": config.model.model_copy(update={"path": str(tmp_path)})})

    return loaded


def test_every_config_is_in_the_table_of_the_readme():
    assert set(FITS) == {path.name for path in (ROOT / "configs").glob("*.json")} - {"schema.json"}


@pytest.mark.parametrize("name", FITS)
def test_a_config_loads_and_its_deepspeed_settings_resolve(name, example):
    config, (world_size, _) = example(name), FITS[name]
    width = AutoConfig.from_pretrained(config.model.path).hidden_size
    resolved = resolve(config, world_size=world_size, hidden_size=width)
    training = config.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    assert resolved["train_batch_size"] == rows
    assert "auto" not in json.dumps(resolved)


def test_the_demo_loads():
    for path in (ROOT / "configs" / "demo").glob("*.json"):
        load(path)


def test_configs_that_name_the_same_shards_make_the_same_shards():
    made: dict[str, tuple] = {}
    for name in FITS:
        config = load(ROOT / "configs" / name)
        contents = config.model.path, config.data.model_copy(update={"samples": None}), config.seed
        assert made.setdefault(config.data.shards or config.output_dir, contents) == contents


def test_configs_have_folders_of_their_own():
    folders = [load(ROOT / "configs" / name).output_dir for name in FITS]
    assert len(set(folders)) == len(folders)


def test_the_readme_shows_every_weighting_and_each_works(example):
    configs = [example("sft-mixed.json", override) for override in OVERRIDES]
    shown = {config.loss.weighting.type for config in configs}
    known = {setting.variant or "" for setting in settings() if setting.section == "loss.weighting"}
    assert shown == known - {"plugin"}  # which is whatever a plugin makes it
    assert {config.loss.reduction.type for config in configs} >= {"focal_sample", "focal_task"}


@pytest.mark.engine  # for its time: a model of 80 layers is built, if only on the meta device
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name in LARGE else ()) for name in FITS])
def test_a_config_fits_the_gpus_that_it_is_meant_for(name, example):
    world_size, gib = FITS[name]
    assert plan(example(name), world_size).total <= SPARE * gib * GIB


@pytest.mark.engine
def test_qlora_takes_70_billion_parameters_on_one_gpu(example):
    planned = plan(example("qlora-7b-one-gpu.json", "model.path=Qwen/Qwen2.5-72B"), world_size=1)
    assert planned.parameters > 72e9
    assert planned.parts["weights"] > 72e9 * 4 / 8
    assert planned.total <= SPARE * 80 * GIB
