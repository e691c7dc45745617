"""A small real model learns two tasks and writes their answers; the table of families knows real tokenizers."""

import json
import os
from pathlib import Path

import pytest
from end_to_end_project import succeed
from transformers import AutoTokenizer

from mftcoder.models.families import ADAPTERS, tokens_of

pytestmark = pytest.mark.corpora


def corpora() -> Path:
    return Path(os.environ["MFTCODER_CORPORA"])


@pytest.mark.parametrize(
    ("name", "model_type", "known", "infilling"),
    [
        ("llama2", "llama", None, False),
        ("deepseek-coder", "llama", "DeepSeek-Coder", True),
        ("qwen2", "qwen2", "ChatML", False),
        ("mistral-v3", "mistral", "Mistral since v3", False),
        ("starcoder2", "starcoder2", "StarCoder", True),
        ("phi-1_5", "phi", None, False),
    ],
)
def test_the_table_knows_the_tokens_of_real_tokenizers(name, model_type, known, infilling):
    found = tokens_of(ADAPTERS[model_type], AutoTokenizer.from_pretrained(corpora() / "tokenizers" / name))
    assert (found and found.name) == known
    assert bool(found and found.infilling) == infilling


@pytest.mark.engine
def test_stories_learns_two_tasks_with_new_markers_and_writes(tmp_path):
    animals = ["cat", "dog", "bird", "frog", "fish", "bear", "duck", "fox"]
    tasks = {
        "sound": [(f"What does the {a} {n} say?", f"The {a} says hello to you.") for a in animals for n in range(12)],
        "place": [(f"Where is the {a} {n}?", f"The {a} is in the big park.") for a in animals for n in range(12)],
    }
    for name, pairs in tasks.items():
        lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    config = {
        "output_dir": str(tmp_path / "run"),
        "model": {
            "path": str(corpora() / "models/stories260k"),
            "dtype": "float32",
            "new_tokens": ["<|user|>", "<|bot|>"],
        },
        "data": {
            "shards": str(tmp_path / "shards"),
            "sequence_length": 256,
            "chat": {"type": "markers", "user": "<|user|>", "assistant": "<|bot|>"},
            "validation_fraction": 0.1,
            "tasks": [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in tasks],
        },
        "training": {"per_device_train_batch_size": 4, "learning_rate": 3e-3, "max_steps": 60, "save_steps": 60},
        "logging": {"report_to": []},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    succeed("train", tmp_path / "config.json")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["losses"] for line in lines if line["kind"] == "validation"]
    assert all(last[task] < 0.3 * first[task] for task in tasks)
    succeed("export", tmp_path / "run", "--to", tmp_path / "out", "--checkpoint", "last")
    written = succeed("generate", tmp_path / "out", "--prompt", "Where is the cat 7?", "--max-new-tokens", 24)
    assert "The cat is in the big park." in written
