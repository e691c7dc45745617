"""Losses that are not finite, or that jump, because of one sample: the run goes on, and the sample is named."""

import json
import random
import re
import shutil
import string
from pathlib import Path

import pytest
import torch
from end_to_end_project import succeed
from transformers import AutoTokenizer, LlamaForCausalLM

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
        "training__gradient_accumulation_steps": 1,
        "logging__report_to": [],
        "logging__logging_steps": 1,
    }


def named_sample(output: str, shards: Path) -> str:
    """What ``inspect`` shows of the first sample that a warning names."""
    call = re.search(rf"mftcoder (inspect {re.escape(str(shards))} --task add --sample \d+)", output)
    assert call, output
    return succeed(*call[1].split())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sample_that_makes_the_loss_not_finite_costs_its_steps_and_is_named(ranks, project, write_config, tmp_path):
    """The embedding of "~" is not a number, and one record holds one; with two ranks only one of them sees it."""
    base = tmp_path / "base"
    shutil.copytree(project["model"]["path"], base)
    model, tokenizer = LlamaForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    (token,) = tokenizer.encode("~", add_special_tokens=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    model.save_pretrained(base)
    changes = with_record(project, tmp_path, "1 ~ 2", "3")
    config = write_config("run", **changes, model__path=str(base), training__num_train_epochs=2)
    output = succeed("train", config, ranks=ranks)
    assert output.count("the loss of add is not finite; the step was skipped") == 2  # once an epoch
    assert "1 ~ 2" in named_sample(output, tmp_path / "shards")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["skipped"] for line in lines if line["kind"] == "train") == 2
    assert lines[-1]["kind"] == "stop"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sample_unlike_the_others_is_named_when_the_loss_jumps(ranks, project, write_config, tmp_path):
    answer = "".join(random.Random(0).choices(string.ascii_letters, k=50))
    config = write_config("run", **with_record(project, tmp_path, "1 + 2", answer), training__num_train_epochs=6)
    output = succeed("train", config, ranks=ranks)
    assert "the loss of add jumped to" in output
    assert answer in "".join(named_sample(output, tmp_path / "shards").split())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    spikes = [line for line in lines if line["kind"] == "spike"]
    assert spikes
    assert all(spike["loss"] > 1.3 * spike["usual"] and spike["samples"] for spike in spikes)
