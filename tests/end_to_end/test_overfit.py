"""A real training in which one task soon overfits: CoBa takes weight from it, and on the whole that does no harm."""

import json
import random
from pathlib import Path

import pytest
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.config.load import parse
from mftcoder.data.prepare import prepare
from mftcoder.training.run import train

pytestmark = pytest.mark.engine

TASKS = ("up", "down", "noise")
NUM_STEPS = 240


def write_tasks(folder: Path) -> None:
    """Counting up and counting down can be learnt; random numbers, each ten times, can only be learnt by heart."""
    draw = random.Random(0)
    up = [{"text": " ".join(str(start + i) for i in range(12))} for start in draw.sample(range(900), 300)]
    down = [{"text": " ".join(str(start - i) for i in range(12))} for start in draw.sample(range(20, 920), 300)]
    noise = [{"text": " ".join(str(draw.randrange(1000)) for _ in range(12))} for _ in range(30)] * 10
    for name, records in zip(TASKS, (up, down, noise), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, one_process_group: None) -> dict[str, list[dict]]:
    """Weighting -> the lines of metrics.jsonl."""
    folder = tmp_path_factory.mktemp("overfit")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    write_tasks(folder)
    found = {}
    coba = {"type": "coba", "window_steps": 40, "warmup_steps": 20, "probe": {"every_steps": 5, "tokens": 3000}}
    for weighting in ({"type": "uniform"}, coba):
        name = weighting["type"]
        config = parse(
            {
                "output_dir": str(folder / name),
                "model": {"path": str(folder / "base"), "dtype": "float32"},
                "data": {
                    "shards": str(folder / "shards"),
                    "sequence_length": 128,
                    "validation_fraction": 0.3,
                    "tasks": [{"name": task, "path": str(folder / f"{task}.jsonl")} for task in TASKS],
                },
                "loss": {"weighting": weighting},
                "training": {
                    "per_device_train_batch_size": 8,
                    "per_device_eval_batch_size": 32,
                    "learning_rate": 3e-3,
                    "max_steps": NUM_STEPS,
                    "eval_strategy": "steps",
                    "eval_steps": 20,
                    "save_strategy": "epoch",
                    "save_best": False,
                },
                "logging": {"logging_steps": 20, "report_to": []},
            }
        )
        prepare(config, tell=print)
        train(config)
        text = (folder / name / "metrics.jsonl").read_text()
        found[name] = [json.loads(line) for line in text.splitlines()]
    return found


def of_task(lines: list[dict], kind: str, name: str, task: str) -> dict[int, float]:
    """Step -> a number of ``task`` in the lines of ``kind``."""
    return {line["step"]: line[name][task] for line in lines if line["kind"] == kind}


def test_a_task_that_overfits_loses_weight_while_it_does(lines):
    losses = of_task(lines["coba"], "probe", "losses", "noise")
    weights = of_task(lines["coba"], "probe", "weights", "noise")
    best = min(losses, key=losses.__getitem__)
    overfitting = range(best, best + 50, 5)
    assert best < NUM_STEPS / 2
    assert losses[overfitting[-1]] > 1.05 * losses[best]
    assert max(weights[step] for step in overfitting) < 1 / len(TASKS)
    assert min(weights[step] for step in overfitting) < 0.5 / len(TASKS)


def test_balancing_does_no_harm_on_the_whole(lines):
    """The losses here are of samples that no probe holds; under uniform weights the overfitting shows in them."""
    noise = list(of_task(lines["uniform"], "validation", "losses", "noise").values())
    assert noise[-1] > 1.1 * min(noise)
    final = {name: [line for line in of if line["kind"] == "validation"][-1] for name, of in lines.items()}
    assert final["coba"]["mean_ratio"] <= final["uniform"]["mean_ratio"]
    assert final["coba"]["losses"]["noise"] < noise[-1]
