"""A run that is killed and resumed ends bit for bit where an undisturbed one ends."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end_project import command, succeed
from fault_run import FaultRun, torchrun

pytestmark = pytest.mark.engine

LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}
EPOCH = {"training__save_strategy": "epoch", "training__save_steps": 500}  # the default: no setting
SHARED_ROWS = {
    "training__sequence_parallel_size": 2,
    "data__packing": {"mode": "pad"},
    "data__shards": "padded",
    "training__max_steps": 84,
}
CASES = {  # name -> ranks, ZeRO stage, LoRA, saves
    "one rank, stage 0, LoRA, at an epoch's edge": (1, 0, LORA, EPOCH),
    "two ranks, stage 2, LoRA, mid-epoch": (2, 2, LORA, {"training__save_steps": 4}),
    "two ranks that share rows, stage 3, full": (2, 3, None, {"training__save_steps": 4} | SHARED_ROWS),
}
NF4 = {"training__save_steps": 4, "model__quantization": {"type": "nf4"}}
LONG_CASES = {
    "one rank, stage 0, full, mid-epoch": (1, 0, None, {"training__save_steps": 4}),
    "two ranks, stage 2, full, at an epoch's edge": (2, 2, None, EPOCH),
    "two ranks, stage 1, full, mid-epoch": (2, 1, None, {"training__save_steps": 4}),
    "two ranks, stage 1, LoRA, at an epoch's edge": (2, 1, LORA, EPOCH),
    "two ranks, stage 3, full, mid-epoch": (2, 3, None, {"training__save_steps": 4}),
    "two ranks, stage 3, LoRA, at an epoch's edge": (2, 3, LORA, EPOCH),
    "one rank, stage 0, QLoRA": (1, 0, LORA, NF4),
    "two ranks, stage 2, QLoRA": (2, 2, LORA, NF4),
    "two ranks, stage 3, QLoRA": (2, 3, LORA, NF4),
}


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.long) for case in LONG_CASES)])
def test_kill_and_resume_equals_never_killed_bitwise(case, write_config, tmp_path):
    ranks, stage, lora, saves = (CASES | LONG_CASES)[case]
    changes = {
        "model__lora": lora,
        "deepspeed": {"zero_optimization": {"stage": stage}},
        "training__gradient_accumulation_steps": 2 // ranks,
        "training__num_train_epochs": 6,
        "logging__logging_steps": 1,
        **saves,
    }
    if "data__shards" in changes:
        changes["data__shards"] = str(tmp_path / "shards")
    whole, killed = write_config("whole", **changes), write_config("killed", **changes)
    succeed("train", whole, ranks=ranks)
    step = random.randrange(16, 70)  # of 84; the first checkpoint is at 14 or before
    kill_at_step(step, killed, tmp_path / "killed", ranks)
    done = command("train", killed, "--resume", ranks=ranks)
    assert done.returncode == 0, f"killed at step {step}: {done.stdout}{done.stderr}"
    assert "resuming from" in done.stdout

    ours, theirs = last_checkpoint(tmp_path / "killed"), last_checkpoint(tmp_path / "whole")
    assert ours.name == theirs.name
    for file in sorted((theirs / "engine").iterdir()):
        assert_equal_bitwise(
            torch.load(ours / "engine" / file.name, weights_only=False), torch.load(file, weights_only=False), file.name
        )
    states = [json.loads((path / "checkpoint.json").read_text()) for path in (ours, theirs)]
    for key in ("step", "epoch", "weighting", "early_stopping", "nonfinite", "best_step"):
        assert states[0][key] == states[1][key]
    assert losses_logged(tmp_path / "killed") == losses_logged(tmp_path / "whole")


def kill_at_step(step: int, config: Path, output_dir: Path, ranks: int) -> None:
    """Start a run and kill -9 all of it once it has logged ``step``."""
    metrics = output_dir / "metrics.jsonl"
    with FaultRun([*torchrun(ranks), "train", config], output_dir.with_suffix(".log")) as run:
        run.wait_for(lambda: metrics.exists() and f'"step": {step},' in metrics.read_text(), f"step {step}")
    assert '"stop"' not in metrics.read_text(), "the run ended before it was killed"


def last_checkpoint(output_dir: Path) -> Path:
    return max(path.parent for path in output_dir.glob("checkpoints/*/checkpoint.json"))


def losses_logged(output_dir: Path) -> list[dict[str, Any]]:
    """All that metrics.jsonl says, but for times."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "_per_second", "memory_gib", "overhead")
    untimed = [line for line in lines if line["kind"] not in ("checkpoint", "slow_rank")]
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in untimed]


def assert_equal_bitwise(ours: Any, theirs: Any, where: str) -> None:
    assert type(ours) is type(theirs), where
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_equal_bitwise(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal_bitwise(a, b, f"{where}[{number}]")
    elif isinstance(theirs, int | float | str | bool | None):
        assert ours == theirs, where


def test_resume_without_a_checkpoint_starts_and_says_so(write_config, tmp_path):
    config = write_config("new", training__max_steps=2)
    assert "no complete checkpoint yet" in succeed("train", config, "--resume")
    assert last_checkpoint(tmp_path / "new").name == "step-000002"


def test_going_back_moves_later_checkpoints_aside_and_ends_as_before(write_config, tmp_path):
    config, run = write_config("run", training__max_steps=6, training__save_steps=2), tmp_path / "run"
    succeed("train", config)
    before = losses_logged(run)
    assert "step-000004, step-000006: moved to" in succeed("train", config, "--resume", "step-2")
    assert {path.name for path in (run / "left-at-step-000002").iterdir()} == {"step-000004", "step-000006"}
    assert last_checkpoint(run).name == "step-000006"
    assert losses_logged(run) == before


def test_a_checkpoint_with_a_changed_file_is_refused_and_named(write_config, tmp_path):
    config = write_config("bad", training__max_steps=2)
    succeed("train", config)
    file = next((last_checkpoint(tmp_path / "bad") / "engine").glob("*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = command("train", config, "--resume")
    assert done.returncode == 2
    assert file.name in done.stderr


def test_resuming_with_settings_that_alter_the_trajectory_is_refused_with_both_values(write_config):
    succeed("train", write_config("run", training__max_steps=1))
    changes = {
        "training__learning_rate": 1e-3,
        "training__gradient_accumulation_steps": 3,
        "deepspeed": {"prescale_gradients": True},
        "loss__weighting": {"type": "uniform"},
    }
    done = command("train", write_config("run", training__max_steps=1, **changes), "--resume")
    assert done.returncode == 2
    for expected in (
        "training.learning_rate was 0.002, now 0.001",
        "rows_per_step was 4, now 6",
        "deepspeed.prescale_gradients was None, now True",
        "loss.weighting.type was coba, now uniform",
    ):
        assert expected in done.stderr


def test_resuming_with_another_task_set_prints_both(write_config, tmp_path, project):
    succeed("train", write_config("run", training__max_steps=1))
    tasks = project["data"]["tasks"][:2]
    changed = write_config("run", training__max_steps=1, data__tasks=tasks, data__shards=str(tmp_path / "other"))
    done = command("train", changed, "--resume")
    assert done.returncode == 2
    assert "add, multiply, few" in done.stderr
    assert "now has add, multiply." in done.stderr


def test_logging_and_saving_may_change_at_resume(write_config, tmp_path):
    succeed("train", write_config("run", training__max_steps=6, logging__logging_steps=4))
    for file in (last_checkpoint(tmp_path / "run")).rglob("checkpoint.json"):
        file.unlink()  # as if killed during the last save
    succeed(
        "train",
        write_config("run", training__max_steps=6, logging__logging_steps=1, training__save_steps=5),
        "--resume",
    )
    assert last_checkpoint(tmp_path / "run").name == "step-000006"
