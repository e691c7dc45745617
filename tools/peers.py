"""The same training for this program, TRL and LLaMA-Factory: their configs and command lines.

Each is given what its documentation says is best: packing without mixing samples, the loss that it makes without whole
logits where it has one (TRL's default), and no activation checkpointing.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OFFLINE = {"HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": ""}


@dataclass(frozen=True)
class Work:
    """What all programs are to do."""

    model: Path  # folder with a tokenizer whose chat template marks what the assistant says
    data: Path  # folder of NAME.jsonl in the format "messages"
    sequence_length: int = 512
    rows_per_step: int = 4
    steps: int = 6
    bf16: bool = False
    lora_rank: int | None = None
    device: str = "cpu"
    factory_template: str = "llama2"  # LLaMA-Factory has templates of its own instead of the tokenizer's

    @property
    def files(self) -> list[Path]:
        return sorted(self.data.glob("*.jsonl"))


@dataclass(frozen=True)
class Program:
    """One contestant."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    step_line: re.Pattern  # of its output when a step is done
    config: Path


def ours(work: Work, folder: Path, name: str = "mftcoder", **overrides: Any) -> Program:
    """This program; ``overrides`` are keys of the section ``model``."""
    lora = {"rank": work.lora_rank, "alpha": 2 * work.lora_rank, "dropout": 0.0} if work.lora_rank else None
    config = {
        "output_dir": str(folder / "run"),
        "model": {
            "path": str(work.model),
            "dtype": "bfloat16" if work.bf16 else "float32",
            **({"lora": lora} if lora else {}),
            **overrides,
        },
        "data": {
            "shards": str(folder / "shards"),
            "sequence_length": work.sequence_length,
            "validation_fraction": 0.0,
            "tasks": [{"name": file.stem, "path": str(file)} for file in work.files],
        },
        "training": {
            "per_device_train_batch_size": work.rows_per_step,
            "gradient_accumulation_steps": 1,
            "max_steps": work.steps,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "eval_strategy": "no",
            "save_steps": 10**9,
            "activation_checkpointing": False,
        },
        "logging": {"logging_steps": 1, "report_to": []},
    }
    path = _written(folder, "config.json", json.dumps(config, indent=2))
    command = (sys.executable, "-m", "mftcoder", "train", str(path))
    return Program(name, command, {}, re.compile(r"^step \d+/\d+ "), path)


def trl(python: Path, work: Work, folder: Path) -> Program:
    """TRL's ``trl sft``."""
    lora = {"use_peft": True, "lora_r": work.lora_rank, "lora_target_modules": "all-linear"} if work.lora_rank else {}
    config = {
        **_shared(work, folder),
        **lora,
        **({"attn_implementation": "flash_attention_2"} if work.device == "cuda" else {}),
        "dtype": "bfloat16" if work.bf16 and work.lora_rank else "float32",  # float32 for what is trained, as here
        "max_length": work.sequence_length,
        "packing": True,
        "packing_strategy": "bfd",
        "assistant_only_loss": True,
        "gradient_checkpointing": False,
        "datasets": [{"path": "json", "data_files": str(file), "split": "train"} for file in work.files],
    }
    path = _written(folder, "config.yaml", yaml.safe_dump(config, sort_keys=False))
    command = (str(python.parent / "trl"), "sft", "--config", str(path))
    return Program("trl", command, _environment(folder), re.compile(r"^\{'loss': "), path)


def llamafactory(python: Path, work: Work, folder: Path) -> Program:
    """LLaMA-Factory's ``llamafactory-cli train``."""
    lora = {"finetuning_type": "lora", "lora_rank": work.lora_rank, "lora_target": "all"}
    fast = {"flash_attn": "fa2", "enable_liger_kernel": True} if work.device == "cuda" else {"flash_attn": "sdpa"}
    config = {
        **_shared(work, folder),
        **(lora if work.lora_rank else {"finetuning_type": "full"}),
        **fast,
        "stage": "sft",
        "do_train": True,
        "template": work.factory_template,
        "dataset_dir": str(folder),
        "dataset": ",".join(file.stem for file in work.files),
        "cutoff_len": work.sequence_length,
        "packing": True,
        "neat_packing": True,
        "disable_gradient_checkpointing": True,
        "overwrite_output_dir": True,
    }
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    sources = {
        file.stem: {
            "file_name": str(file),
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
        for file in work.files
    }
    path = _written(folder, "config.yaml", yaml.safe_dump(config, sort_keys=False))
    _written(folder, "dataset_info.json", json.dumps(sources))
    command = (str(python.parent / "llamafactory-cli"), "train", str(path))
    return Program("llamafactory", command, _environment(folder), re.compile(r"^\{'loss': "), path)


def packed(peer: str, python: Path, program: Program) -> dict[str, float]:
    """Make the rows that ``program`` would train on, anew, and count them (see ``peer_rows.py``)."""
    script, cache = Path(__file__).with_name("peer_rows.py"), program.config.parent / "cache-of-rows"
    command = [str(python), str(script), peer, str(program.config), str(cache)]
    output = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **OFFLINE}, check=False)
    found = [line for line in output.stdout.splitlines() if line.startswith("ROWS ")]
    if not found:
        raise RuntimeError(f"{' '.join(command)}\n{output.stdout[-2000:]}{output.stderr[-2000:]}")
    return json.loads(found[-1].removeprefix("ROWS "))


def _shared(work: Work, folder: Path) -> dict[str, Any]:
    """What both peers take from transformers' trainer."""
    return {
        "model_name_or_path": str(work.model),
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": work.rows_per_step,
        "gradient_accumulation_steps": 1,
        "max_steps": work.steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": work.device == "cpu",
        "bf16": work.bf16,
    }


def _environment(folder: Path) -> dict[str, str]:
    return {**OFFLINE, "HF_DATASETS_CACHE": str(folder / "cache")}


def _written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
