"""A small real project (three tasks of arithmetic, a base model, a config), and running commands as a user would."""

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_start
from tiny import tiny_llama, tiny_tokenizer

MFTCODER = [sys.executable, "-m", "mftcoder"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launcher(ranks: int) -> list[str]:
    """The command that starts the program on ``ranks`` ranks."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        "-m",
        "mftcoder",
    ]


def command(*arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a subcommand to its end."""
    return warm_start.run([str(argument) for argument in arguments], ENVIRONMENT, ranks)


def succeed(*arguments: object, ranks: int = 1) -> str:
    """The output of a subcommand that must end with 0."""
    done = command(*arguments, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_tasks(folder: Path) -> None:
    """Task files in three formats; "few" has just enough samples for a validation."""
    draw = random.Random(0)
    makers: dict[str, tuple[int, Callable[[int, int], dict]]] = {
        "add": (120, lambda a, b: {"messages": [{"role": "user", "content": f"{a} + {b}"}, _answer(a + b)]}),
        "multiply": (
            60,
            lambda a, b: {
                "chat_rounds": [{"role": "human", "content": f"{a} * {b}"}, {"role": "bot", "content": str(a * b)}]
            },
        ),
        "few": (4, lambda a, b: {"text": f"{a} and {b} are two numbers."}),
    }
    for name, (count, make) in makers.items():
        records = [make(draw.randrange(100), draw.randrange(100)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _answer(number: int) -> dict[str, str]:
    return {"role": "assistant", "content": str(number)}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config, as JSON, whose shards exist. Its output_dir must be replaced."""
    folder = tmp_path_factory.mktemp("project")
    # Dropout in the attention, so that exact resumption needs the random numbers to be right as well.
    tiny_llama(attention_dropout=0.1).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    write_tasks(folder)
    config = {
        "output_dir": str(folder / "unused"),
        "model": {"path": str(folder / "base"), "dtype": "float32"},
        "data": {
            "shards": str(folder / "shards"),
            "sequence_length": 96,
            "validation_fraction": 0.1,
            "tasks": [{"name": name, "path": str(folder / f"{name}.jsonl")} for name in ("add", "multiply", "few")],
        },
        "loss": {
            "weighting": {
                "type": "coba",
                "window_steps": 6,
                "warmup_steps": 3,
                "probe": {"every_steps": 2, "tokens": 200},
            }
        },
        "training": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 2e-3,
            "num_train_epochs": 3,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "save_strategy": "steps",
            "save_steps": 4,
            "save_best": False,
        },
        "logging": {"logging_steps": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    succeed("tokenize", folder / "config.json")
    return config


@pytest.fixture
def write_config(project: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """``write_config("name", section__key=value)`` writes the project's config with changes and another output_dir."""

    def write(name: str, **changes: Any) -> Path:
        config = copy.deepcopy(project) | {"output_dir": str(tmp_path / name)}
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            node = config
            for section in sections:
                node = node.setdefault(section, {})
            node[key] = value
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    return write
