"""Losses that jump or are not finite, because of one sample or one rank: the run goes on, and it is named."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from end_to_end_project import succeed
from test_lost_ranks import harmed
from tiny import VOCABULARY
from transformers import AutoTokenizer, LlamaForCausalLM

from mftcoder.models.check import LENGTH

pytestmark = [pytest.mark.engine, pytest.mark.long]


def with_record(project: dict, folder: Path, question: str, answer: str) -> dict:
    """Changes to the project's config: one more record of the task "add", which is the only one."""
    source = next(task["path"] for task in project["data"]["tasks"] if task["name"] == "add")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    (folder / "add.jsonl").write_text(Path(source).read_text() + json.dumps({"messages": messages}) + "\n")
    return {
        "data__tasks": [{"name": "add", "path": str(folder / "add.jsonl")}],
        "data__shards": str(folder / "shards"),
        "data__validation_fraction": 0.0,
        "loss": {"weighting": {"type": "uniform"}},
        "training__eval_strategy": "no",
        "training__eval_steps": None,
        "training__gradient_accumulation_steps": 1,
        "logging__report_to": [],
        "logging__logging_steps": 1,
    }


def train_lines(output_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def named_sample(output: str, shards: Path) -> str:
    """What ``inspect`` shows of the first sample that a warning names."""
    call = re.search(rf"mftcoder (inspect {re.escape(str(shards))} --task add --sample \d+)", output)
    assert call, output
    return succeed(*call[1].split())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sample_that_makes_the_loss_not_finite_costs_its_steps_and_is_named(ranks, project, write_config, tmp_path):
    """The embedding of a sign is not a number, and one record holds it; with two ranks only one of them sees it."""
    base = tmp_path / "base"
    shutil.copytree(project["model"]["path"], base)
    model, tokenizer = LlamaForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    # Not one that the proof before the first step would meet.
    drawn = torch.randint(VOCABULARY, (2, 2 * LENGTH), generator=torch.Generator().manual_seed(0)).unique().tolist()
    ids = {sign: tokenizer.encode(sign, add_special_tokens=False) for sign in "~^@#%&=;<>"}
    sign, token = next((sign, number) for sign, (number,) in ids.items() if number not in drawn)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    model.save_pretrained(base)
    changes = with_record(project, tmp_path, f"1 {sign} 2", "3")
    config = write_config("run", **changes, model__path=str(base), training__num_train_epochs=2)
    output = succeed("train", config, ranks=ranks)
    assert output.count("the loss of add is not finite; the step was skipped") == 2  # once an epoch
    assert f"1 {sign} 2" in named_sample(output, tmp_path / "shards")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["skipped"] for line in lines if line["kind"] == "train") == 2
    assert lines[-1]["kind"] == "stop"


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(value, stage, long_run, tmp_path):
    changes = {"training__agreement_steps": 1, "training__max_steps": 12, "logging__logging_steps": 1}
    config = long_run("run", **changes, deepspeed={"zero_optimization": {"stage": stage}})
    with harmed(value, 1, config, tmp_path / "log") as run:
        assert run.end() == 0, run.output
        assert f"a loss of {value}\n" in run.output
        assert "step 7: the loss of " in run.output
        assert run.output.count("is not finite; the step was skipped") == 1
    lines = train_lines(tmp_path / "run")
    assert [line["step"] for line in lines if line["skipped"]] == [7]
    assert all(line["loss"] is not None for line in lines[7:])


def test_one_odd_record_raises_a_warning_with_its_number(project, write_config, tmp_path):
    changes = with_record(project, tmp_path, "1 + 2", "q[)zk~Q{w^pX#vJ;b@" * 2)
    output = succeed("train", write_config("run", **changes, training__num_train_epochs=10))
    assert "the loss of add jumped to " in output
    assert "q[)zk" in named_sample(output, tmp_path / "shards")


def test_no_odd_record_raises_no_warning(project, write_config, tmp_path):
    changes = with_record(project, tmp_path, "1 + 2", "3")
    assert " jumped to " not in succeed("train", write_config("run", **changes, training__num_train_epochs=10))
