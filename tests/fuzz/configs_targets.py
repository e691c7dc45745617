"""Targets: configs of every kind, and what changes them on the command line."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from mutations import STRINGS, as_bytes, chance, damaged, spoilt

from mftcoder.config import load
from mftcoder.config.deepspeed import resolve
from mftcoder.config.predecessor import import_config
from mftcoder.config.schema import Config
from mftcoder.construct.settings import load as load_construct
from mftcoder.errors import MftcoderError

CONFIGS = Path(__file__).parents[2] / "configs"
PREDECESSOR: dict[str, Any] = {
    "data_paths": "[a/one.jsonl, b/two.jsonl]",
    "output_dir": "runs/x",
    "pretrained_model_path": "m",
    "data_split": "98,2,0",
    "padding_mode": "padding",
    "use_dynamic_padding": True,
    "weighted_loss_mode": "coba",
    "task_weights": "1,2",
    "coba_tau": 5,
    "peft_type": "qlora",
    "quantization": "4bit",
    "lora_rank": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "role_markers": {"system": "s", "user": "u", "assistant": "a"},
    "lr_scheduler_type": "cosine",
    "num_warmup_steps": 100,
    "max_train_steps": 1000,
    "resume_from_checkpoint": "x",
    "early_stopping": True,
    "early_stopping_stall_num": 3,
    "distributed_type": "deepspeed",
    "tokenizer_type": "AutoTokenizer",
    "unknown": 1,
}
Run = Callable[[Random], None]


def _stored(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(CONFIGS.glob(pattern)) if file.name != "schema.json"]


def _overrides(random: Random, config: dict[str, Any]) -> list[str]:
    """Keys that are there, and not, with values of every kind."""
    found = []
    for _ in range(random.choice([0, 0, 1, 2])):
        node: Any = config
        parts = []
        while isinstance(node, dict | list) and node and chance(random, 0.8):
            place = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
            parts.append(str(place))
            node = node[place]
        if chance(random, 0.3):
            parts.append(random.choice(["0", "-1", "²", "9" * 5000, *STRINGS]))
        text = as_bytes(random, spoilt(random, node)).decode(errors="replace")
        found.append(".".join(parts) + random.choice(["=", "=", "=", ""]) + text)
    return found


def check(config: Config, random: Random) -> None:
    """What is made of a config that was loaded, without its model and data."""
    resolve(config, world_size=random.choice([1, 2, 8]), hidden_size=64)
    json.dumps(config.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode()


def configs(folder: Path) -> Run:
    stored = _stored("*.json")
    sections = _stored("deepspeed/*.json")
    for config in stored:
        config["deepspeed"] = sections[0]
    file = folder / "config.json"

    def run(random: Random) -> None:
        config = dict(random.choice(stored), deepspeed=random.choice(sections))
        overrides = _overrides(random, config)
        if not overrides or chance(random, 0.5):
            config = spoilt(random, config)
        file.write_bytes(as_bytes(random, config))
        check(load(file, overrides), random)

    return run


def deepspeed_settings(folder: Path) -> Run:
    """The parser of DeepSpeed looks at them, too."""
    from mftcoder.engine.settings import check_settings

    sections, config = _stored("deepspeed/*.json"), _stored("cpu-smoke.json")[0]
    file = folder / "config.json"

    def run(random: Random) -> None:
        config["deepspeed"] = spoilt(random, random.choice(sections))
        file.write_bytes(as_bytes(random, config, damage=0))
        check_settings(resolve(load(file), world_size=2, hidden_size=64))

    return run


def predecessors(folder: Path) -> Run:
    file = folder / "old.json"

    def run(random: Random) -> None:
        old = copy.deepcopy(PREDECESSOR)
        old["weighted_loss_mode"] = random.choice(["coba", "case3", "case2"])
        old["peft_type"] = random.choice(["qlora", "lora", None])
        file.write_bytes(as_bytes(random, spoilt(random, old)))
        json.dumps(import_config(file)[0], allow_nan=False).encode()

    return run


def constructs(folder: Path) -> Run:
    stored, file = _stored("construct/*.json"), folder / "construct.json"

    def run(random: Random) -> None:
        config = random.choice(stored)
        file.write_bytes(as_bytes(random, spoilt(random, config)))
        load_construct(file, _overrides(random, config))

    return run


def noise(folder: Path) -> Run:
    """No JSON at all, for all of them."""
    stored, file = [json.dumps(config).encode() for config in _stored("*.json")], folder / "noise.json"

    def run(random: Random) -> None:
        file.write_bytes(damaged(random, random.choice(stored)) if chance(random, 0.8) else random.randbytes(200))
        for read in (load, import_config, load_construct):
            try:
                read(file)
            except MftcoderError:
                continue

    return run
