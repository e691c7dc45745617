"""A real training in which one task soon overfits: CoBa takes weight from it, and on the whole that does no harm; the
guard ends its training."""

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
    """Counting up and counting down can be learnt; random numbers, each 25 times, can only be learnt by heart."""
    draw = random.Random(0)
    up = [{"text": " ".join(str(start + i) for i in range(12))} for start in draw.sample(range(900), 300)]
    down = [{"text": " ".join(str(start - i) for i in range(12))} for start in draw.sample(range(20, 920), 300)]
    noise = [{"text": " ".join(str(draw.randrange(1000)) for _ in range(12))} for _ in range(12)] * 25
    for name, records in zip(TASKS, (up, down, noise), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, one_process_group: None) -> dict[str, list[dict]]:
    """Run -> the lines of metrics.jsonl."""
    folder = tmp_path_factory.mktemp("overfit")
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    write_tasks(folder)
    found = {}
    coba = {"type": "coba", "window_steps": 40, "warmup_steps": 20, "probe": {"every_steps": 5, "tokens": 3000}}
    losses = {"uniform": {"type": "uniform"}, "coba": coba, "guard": coba}
    for name, weighting in losses.items():
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
                "loss": {"weighting": weighting, "guard": {} if name == "guard" else None},
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
    """It is above its best by 3 % or more; in the meantime its loss also falls, and then CoBa lets it return."""
    losses = of_task(lines["coba"], "probe", "losses", "noise")
    weights = {task: of_task(lines["coba"], "probe", "weights", task) for task in TASKS}
    best = {step: min(loss for then, loss in losses.items() if then <= step) for step in losses}
    overfitting = [step for step in losses if losses[step] > 1.03 * best[step]]
    assert len(overfitting) > 20
    means = {task: sum(weights[task][step] for step in overfitting) / len(overfitting) for task in TASKS}
    assert means["noise"] < 0.75 / len(TASKS)
    assert means["noise"] < min(means["up"], means["down"])
    assert min(weights["noise"][step] for step in overfitting) < 0.5 / len(TASKS)


def test_balancing_does_no_harm_on_the_whole(lines):
    """The losses here are of samples that no probe holds; under uniform weights the overfitting shows in them."""
    noise = list(of_task(lines["uniform"], "validation", "losses", "noise").values())
    assert noise[-1] > 1.1 * min(noise)
    final = {name: [line for line in of if line["kind"] == "validation"][-1] for name, of in lines.items()}
    assert final["coba"]["mean_ratio"] <= final["uniform"]["mean_ratio"]
    assert final["coba"]["losses"]["noise"] < noise[-1]


def test_the_guard_stops_the_task_that_overfits_and_no_other(lines):
    stops = {line["task"]: line["step"] for line in lines["guard"] if line["kind"] == "overfit"}
    assert stops.keys() == {"noise"}
    looks = [line for line in lines["guard"] if line["kind"] == "probe" and line["step"] <= stops["noise"]]
    losses, errors = ([line[name]["noise"] for line in looks] for name in ("losses", "standard_errors"))
    best = min(losses)
    assert all(loss > best + error for loss, error in zip(losses[-3:], errors[-3:], strict=True))
    weights = of_task(lines["guard"], "train", "weights", "noise")
    assert all(weights[step] > 0 for step in weights if step <= stops["noise"])
    after = [weights[step] for step in weights if step > stops["noise"] + 20]  # a line every 20 steps
    assert after
    assert not any(after)
    seen, whole = (sum(of_task(lines[name], "train", "units", "noise").values()) for name in ("guard", "coba"))
    assert seen < 0.5 * whole
