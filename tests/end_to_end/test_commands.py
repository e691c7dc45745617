"""The whole way as a user goes it: three launchers, export, evaluation, generation; and what bad input gets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from end_to_end_project import ENVIRONMENT, MFTCODER, command, launcher, succeed

from mftcoder.config.load import load
from mftcoder.data.shards import Shards
from mftcoder.training.trained import load_trained, open_run

pytestmark = pytest.mark.engine
BIN = Path(sys.executable).parent

LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, out = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
messages = [{"role": "user", "content": "3 + 4"}, {"role": "assistant", "content": "7"}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=False)
with torch.no_grad():
    torch.save({"ids": ids, "logits": model(ids).logits, "dtype": str(model.dtype)}, out)
"""


def last_train_lines(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["kind"] == "train"]


def test_all_launchers_train_the_same(write_config, tmp_path, base_model):
    # A model without dropout, whose random numbers depend on the rank.
    changes = {"training__max_steps": 4, "logging__logging_steps": 1, "model__path": str(base_model)}
    programs = {"plain": [*MFTCODER, "train", write_config("plain", **changes)]}
    changes["training__gradient_accumulation_steps"] = 1
    changes["deepspeed"] = {
        "train_batch_size": "auto",
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
    }
    programs["torchrun"] = [*launcher(2), "train", write_config("torchrun", **changes)]
    programs["launched"] = [BIN / "deepspeed", "--num_gpus", "2", "--module", "mftcoder", "train"]
    programs["launched"].append(write_config("launched", **changes))
    environment = ENVIRONMENT | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for program in programs.values():
        subprocess.run([str(word) for word in program], check=True, capture_output=True, env=environment)
    kept = json.loads((tmp_path / "launched" / "deepspeed.json").read_text())  # without "auto"
    assert (kept["train_batch_size"], kept["zero_optimization"]["reduce_bucket_size"]) == (4, 32**2)
    expected = last_train_lines(tmp_path / "plain")
    assert len(expected) == 4
    for name in ("torchrun", "launched"):
        for ours, theirs in zip(last_train_lines(tmp_path / name), expected, strict=True):
            present = {task: loss for task, loss in theirs.items() if loss is not None}
            assert {task: loss for task, loss in ours.items() if loss is not None} == pytest.approx(present, rel=1e-6)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_export_loads_in_plain_transformers_with_the_trained_logits(runs, kind, tmp_path):
    succeed("export", runs[kind], "--to", tmp_path / "export", "--merge")
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not list(tmp_path.rglob("*.bin"))
    fresh = [sys.executable, "-c", LOGITS, str(tmp_path / "export"), str(tmp_path / "logits.pt")]
    subprocess.run(fresh, check=True, capture_output=True, env=ENVIRONMENT)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    trained = load_trained(*open_run(runs[kind])).eval()
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], trained(found["ids"]).logits, rtol=1e-4, atol=1e-4)
    base = load_trained_base(runs[kind])
    with torch.no_grad():
        assert (found["logits"] - base(found["ids"]).logits).abs().max() > 0.1  # training did change it
    assert found["dtype"] == "torch.float32"
    assert json.loads((tmp_path / "export" / "config.json").read_text())["use_cache"] is True


def load_trained_base(run: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(load(run / "config.json").model.path).eval()


def test_adapter_export_gives_the_merged_logits_through_peft(runs, tmp_path):
    from peft import PeftModel

    succeed("export", runs["lora"], "--to", tmp_path / "adapter", "--adapter", "--no-verify")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    adapted = PeftModel.from_pretrained(load_trained_base(runs["lora"]), tmp_path / "adapter").eval()
    trained = load_trained(*open_run(runs["lora"])).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, trained(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_exported_chat_template_renders_a_training_sample_to_the_ids_trained_on(runs, project, tmp_path):
    from transformers import AutoTokenizer

    succeed("export", runs["full"], "--to", tmp_path / "export", "--no-verify")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    shards = Shards.open(project["data"]["shards"])
    row = shards.rows("add")[0]
    trained_on = row.input_ids[: row.segment_lengths[0]].tolist()
    text = tokenizer.decode(trained_on)
    question = text.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    answer = text.split("<|im_start|>assistant\n")[1].split("<|im_end|>")[0]
    a, b = question.split(" + ")
    assert int(a) + int(b) == int(answer)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == trained_on


def test_evaluate_agrees_with_the_validation_that_the_run_logged(runs, project, tmp_path):
    out = tmp_path / "evaluation.json"
    base = project["model"]["path"]
    succeed("evaluate", runs["full"], "--shards", project["data"]["shards"], "--against", base, "--output", out)
    tasks = json.loads(out.read_text())["tasks"]
    lines = [json.loads(line) for line in (runs["full"] / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["kind"] == "validation"]
    saved = {line["step"] for line in lines if line["kind"] == "checkpoint"}
    best = [line for line in validations if line["improved"] and line["step"] in saved][-1:] or validations[-1:]
    for name, task in tasks.items():
        assert task["nll"] == pytest.approx(best[0]["losses"][name], rel=1e-5)
        assert task["against"] == pytest.approx(validations[0]["losses"][name], rel=1e-5)
        assert task["change"] == pytest.approx(task["nll"] / task["against"] - 1)


def test_generate_answers_a_chat_and_continues_text(runs):
    assert succeed("generate", runs["full"], "--prompt", "1 + 2", "--max-new-tokens", 4)
    lines = succeed(
        "generate", runs["full"], "--prompt", "4 and 5", "--raw", "--max-new-tokens", 4, "--json"
    ).splitlines()
    assert json.loads(lines[-1])["prompt"] == "4 and 5"


def test_train_without_shards_tokenizes_first_and_the_other_rank_waits(write_config, tmp_path):
    config = write_config("run", data__shards=None, training__max_steps=1, training__gradient_accumulation_steps=1)
    succeed("train", config, ranks=2)
    assert (tmp_path / "run" / "shards" / "manifest.json").is_file()


class TestBadInput:
    """Exit code 2, one message that names the place and what was found, no traceback; nothing is lost."""

    def refuse(self, config: Path, *expected: str, name: str = "train") -> None:
        done = command(name, config)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        for text in expected:
            assert text in done.stderr

    def test_a_non_empty_output_dir(self, write_config, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("years of work")
        self.refuse(write_config("run"), "thesis.txt", "--resume")
        assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"

    def test_shards_made_with_another_tokenizer(self, write_config, tmp_path, project):
        from tiny import tiny_llama, tiny_tokenizer

        other = tiny_tokenizer()
        other.add_tokens(["<new>"])
        tiny_llama().save_pretrained(tmp_path / "other")
        other.save_pretrained(tmp_path / "other")
        self.refuse(write_config("run", model__path=str(tmp_path / "other")), "tokenizer", project["model"]["path"])

    def test_a_sequence_longer_than_the_models(self, write_config, tmp_path):
        config = write_config("run", data__sequence_length=200, data__shards=str(tmp_path / "shards"))
        succeed("tokenize", config)
        self.refuse(config, "data.sequence_length", "128", "200")

    def test_a_deepspeed_key_that_contradicts_ours(self, write_config):
        self.refuse(write_config("run", deepspeed={"gradient_clipping": 7}), "gradient_clipping is 7", "max_grad_norm")

    def test_a_task_without_a_supervised_token(self, write_config, tmp_path):
        record = {"messages": [{"role": "user", "content": "hello"}]}
        (tmp_path / "mute.jsonl").write_text(json.dumps(record) + "\n")
        tasks = [{"name": "mute", "path": str(tmp_path / "mute.jsonl")}]
        config = write_config("run", data__tasks=tasks, data__shards=str(tmp_path / "shards"))
        self.refuse(config, "mute", name="tokenize")

    def test_a_model_folder_that_is_not_there(self, write_config):
        self.refuse(write_config("run", model__path="no/such/model"), "model.path", "no/such/model")

    def test_lora_targets_that_do_not_exist(self, write_config):
        self.refuse(write_config("run", model__lora={"target_modules": ["nope"]}), "model.lora.target_modules")


def test_an_empty_task_and_one_with_one_sample(write_config, tmp_path, project):
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "one sample only"}) + "\n")
    tasks = [*project["data"]["tasks"][:1], {"name": "one", "path": str(tmp_path / "one.jsonl")}]
    changes = {"data__tasks": tasks, "data__shards": str(tmp_path / "shards"), "training__num_train_epochs": 1}
    succeed("train", write_config("run", **changes))
    probes = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    weights = [line["weights"]["one"] for line in probes if line["kind"] == "probe"]
    np.testing.assert_allclose(weights, 0.5)  # nothing to validate on: 1/K throughout
    (tmp_path / "none.jsonl").write_text("")
    changes["data__tasks"] = [*tasks, {"name": "none", "path": str(tmp_path / "none.jsonl")}]
    done = command("train", write_config("again", **changes | {"data__shards": str(tmp_path / "others")}))
    assert done.returncode == 2
    assert "none.jsonl" in done.stderr
    shutil.rmtree(tmp_path / "run")
