"""Synthetic run folders with realistic numbers: four tasks, one of which overfits, under CoBa."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mftcoder import cli

TASKS = {"code-completion": 40_000, "unit-test": 9_000, "text-to-sql": 15_000, "code-translation": 4_000}


def write_lines(path: Path, objects: list[dict]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in objects), encoding="utf-8")


@pytest.fixture
def make_run(tmp_path: Path):
    """make_run(name, **settings) writes a run of ``steps`` steps and returns its folder."""

    def make(name: str, steps: int = 200, learning_rate: float = 2e-4, seed: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        tasks = [{"name": task, "path": f"tasks/{task}.jsonl"} for task in TASKS]
        config = {
            "output_dir": f"runs/{name}",
            "seed": 42,
            "data": {"sequence_length": 4096, "tasks": tasks},
            "loss": {"weighting": {"type": "coba", "temperature": 5.0}},
            "training": {"learning_rate": learning_rate, "num_train_epochs": 4.0},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "run.json").write_text(json.dumps(_info(steps)))
        write_lines(folder / "metrics.jsonl", _metrics(steps, learning_rate, np.random.default_rng(seed)))
        write_lines(folder / "generations.jsonl", _generations())
        (folder / "evaluation.json").write_text(json.dumps(_evaluation()))
        return folder

    return make


def _info(steps: int) -> dict:
    counts = {
        task: {
            "samples": n,
            "rows": n // 9,
            "tokens": n * 430,
            "supervised_tokens": n * 140,
            "length_counts": [0, 0, 0, 0, 5, n // 20, n // 5, n // 2, n // 6],
        }
        for task, n in TASKS.items()
    }
    return {
        "mftcoder": "0.1.0",
        "versions": {"torch": "2.13.0", "deepspeed": "0.18.2"},
        "world_size": 2,
        "rows_per_step": 16,
        "total_steps": steps,
        "num_parameters": 7_615_616_512,
        "trainable_parameters": 80_740_352,
        "data": {"fingerprint": "9f2c41aa03", "tasks": counts},
        "notes": ["12 samples of unit-test were truncated to 4096 tokens."],
    }


def _metrics(steps: int, learning_rate: float, rng: np.random.Generator) -> list[dict]:
    start = np.array([1.10, 1.45, 0.92, 1.70])
    floor = np.array([0.78, 0.90, 0.41, 1.05])
    pace = np.array([0.020, 0.011, 0.035, 0.016]) * (learning_rate / 2e-4) ** 0.5
    overfit = np.array([0.0, 0.0, 0.0022, 0.0])
    share = np.array(list(TASKS.values())) / sum(TASKS.values())

    def level(step: int, part: float) -> np.ndarray:
        scaled = step * 200 / steps
        return floor + (start - floor) * np.exp(-pace * scaled) + part * overfit * np.maximum(0, scaled - 90)

    def by_task(values) -> dict:
        return {task: None if value is None else float(value) for task, value in zip(TASKS, values, strict=True)}

    lines, best = [], math.inf
    for step in range(0, steps + 1, 5):
        validation = level(step, 1.0) + rng.normal(0, 0.004, 4)
        weights = np.exp(-3 * np.gradient(level(step, 1.0))) if step > 20 else np.ones(4)
        weights = weights / weights.sum()
        if step:
            train = level(step, -0.4) + rng.normal(0, 0.03, 4)
            seen = rng.multinomial(12_000, share)
            losses = [None if step % 35 == 0 and task == 3 else value for task, value in enumerate(train)]
            lines.append(
                {
                    "kind": "train",
                    "step": step,
                    "epoch": step * 4 / steps,
                    "loss": float(weights @ train),
                    "losses": by_task(losses),
                    "weights": by_task(weights),
                    "units": by_task(seen),
                    "passes": by_task(step * 4 / steps * np.array([1.0, 1.0, 1.0, 2.5])),
                    "tokens": 40_000,
                    "supervised_tokens": 12_000,
                    "learning_rate": learning_rate * min(1, step / 10) * (1 + math.cos(math.pi * step / steps)) / 2,
                    "grad_norm": float(0.6 + 0.8 * math.exp(-step / 20) + rng.gamma(1, 0.1)),
                    "seconds": 5.2,
                    "tokens_per_second": float(rng.normal(7700, 120)),
                    "mfu": float(rng.normal(0.46, 0.01)),
                    "memory_gib": 61.5,
                    "overhead": 0.08 if step % 20 == 5 else 0.01,
                    "skipped": 0,
                }
            )
        if step % 10 == 0:
            slopes = -pace * np.exp(-pace * step) + overfit * (step > 90)
            lines.append(
                {
                    "kind": "probe",
                    "step": step,
                    "losses": by_task(validation + rng.normal(0, 0.02, 4)),
                    "weights": by_task(weights),
                    "slopes": by_task(slopes if step else [None] * 4),
                    "rcs": by_task(np.exp(40 * slopes) / np.exp(40 * slopes).sum()),
                    "acs": by_task(np.exp(-40 * slopes) / np.exp(-40 * slopes).sum()),
                    "df": float(min(1, 1.02 - 0.6 * max(0, step - 90) / steps)),
                    "seconds": 0.8,
                }
            )
        if step % 20 == 0:
            ratios = validation / (start if step else validation)
            improved = float(ratios.mean()) < best
            best = min(best, float(ratios.mean()))
            lines.append(
                {
                    "kind": "validation",
                    "step": step,
                    "epoch": step * 4 / steps,
                    "losses": by_task(validation),
                    "ratios": by_task(ratios),
                    "mean_ratio": float(ratios.mean()),
                    "improved": improved,
                    "seconds": 2.0,
                }
            )
            lines.append({"kind": "checkpoint", "step": step, "seconds": 1.2, "best": improved})
    return [*lines, {"kind": "stop", "step": steps, "reason": "finished"}]


def _generations() -> list[dict]:
    prompt = "Write a Python function that returns the n-th Fibonacci number."
    code = "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"
    return [
        {"task": task, "prompt": f"{prompt} ({task} {index})", "reference": code, "generated": code.replace("fib", "f")}
        for task in TASKS
        for index in range(2)
    ]


def _evaluation() -> dict:
    tasks = {
        task: {
            "nll": 0.71 * (1.1 + 0.1 * i),
            "against": 1.1 + 0.1 * i,
            "change": -0.29,
            "interval": [-0.33, -0.25],
            "tokens": 52_113,
        }
        for i, task in enumerate(TASKS)
    }
    return {"split": "validation", "tasks": tasks}


@pytest.fixture
def samples_page(base_model, tmp_path):
    """samples_page(texts, *arguments) -> the file that ``inspect --html`` writes about shards of ``texts``."""

    def write(texts: list[str], *arguments: str):
        records = [{"prompt": f"say {n}", "completion": text} for n, text in enumerate(texts)]
        (tmp_path / "task.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        config = {
            "output_dir": str(tmp_path / "run"),
            "model": {"path": str(base_model)},
            "data": {
                "sequence_length": 512,
                "validation_fraction": 0.0,
                "tasks": [{"name": "task", "path": str(tmp_path / "task.jsonl")}],
            },
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert cli.main(["tokenize", str(tmp_path / "config.json")]) == 0
        file = tmp_path / "page.html"
        assert cli.main(["inspect", str(tmp_path / "run" / "shards"), "--html", str(file), *arguments]) == 0
        return file

    return write
