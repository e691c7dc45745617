"""An export is whole or not there, says what was trained or is refused, and explains itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from end_to_end_project import ENVIRONMENT, MFTCODER, command, succeed
from hub_server import card_errors
from huggingface_hub import ModelCard, metadata_load
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from tiny import tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from mftcoder.data.chat import load_tokenizer
from mftcoder.data.shards import Shards
from mftcoder.errors import RunError
from mftcoder.evaluation.generation import generate
from mftcoder.evaluation.losses import evaluate
from mftcoder.evaluation.prompts import Infilling
from mftcoder.evaluation.sampling import Sampling
from mftcoder.export.folder import Options, _generation_config, export
from mftcoder.export.sections import without_machine
from mftcoder.export.verify import Expected, expect, real_samples, verify
from mftcoder.training.trained import load_trained, open_run

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> Path:
    """The full run, its weights in several files."""
    folder = tmp_path_factory.mktemp("exports") / "model"
    export(runs["full"], folder, Options(verify=False, max_shard_size="40KB"))
    return folder


@pytest.fixture(scope="module")
def expected(runs) -> Expected:
    config, found = open_run(runs["full"])
    fingerprint = json.loads((runs["full"] / "run.json").read_text())["data"]["fingerprint"]
    samples = real_samples(config, fingerprint)
    assert {sample.task for sample in samples} == {"add", "multiply", "few"}
    tokenizer = load_tokenizer(config.model, config.data.chat)
    return expect(config, load_trained(config, found).eval(), tokenizer, samples)


def test_shards_have_an_index_and_are_small_enough(exported):
    files = sorted(exported.glob("*.safetensors"))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert all(sum(t.nbytes for t in load_file(file).values()) <= 40_000 for file in files)


def altered(exported: Path, folder: Path) -> Path:
    """A copy of the export in which one row of the head is another."""
    subprocess.run(["cp", "-r", exported, folder], check=True)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"]["lm_head.weight"]
    weights = load_file(file)
    weights["lm_head.weight"][-1] += 0.5 * weights["lm_head.weight"].std()
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_a_folder_that_says_something_else_is_refused_with_figures(runs, exported, expected, tmp_path):
    config, _ = open_run(runs["full"])
    size = len(expected.logits[0][0])
    findings = verify(exported, config, expected, merged=True, num_embeddings=size)
    assert findings["logits"]["largest"] < 1e-4
    assert findings["samples"] == 10
    with pytest.raises(RunError, match=r"logits differ by \S+ of their spread, at most \d\.\d+; NLL \S+ trained"):
        verify(altered(exported, tmp_path / "other"), config, expected, merged=True, num_embeddings=size)
    template = tmp_path / "other" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\n", "<|im_end|>"))
    with pytest.raises(
        RunError, match=r"add\.jsonl:1: the exported chat template gives other tokens.* from token \d+ on"
    ):
        verify(tmp_path / "other", config, expected, merged=True, num_embeddings=size)


def test_the_record_and_the_card_say_what_the_run_measured(runs, exported):
    step = open_run(runs["full"])[1].step
    lines = [json.loads(line) for line in (runs["full"] / "metrics.jsonl").read_text().splitlines()]
    losses = next(line["losses"] for line in lines if line["kind"] == "validation" and line["step"] == step)
    state = json.loads((exported / "trainer_state.json").read_text())
    assert state["global_step"] == step
    assert state["validation"]["losses"] == losses
    metrics = [json.loads(line) for line in (exported / "metrics.jsonl").read_text().splitlines()]
    assert metrics == [line for line in lines if line["step"] <= step]
    card = ModelCard.load(exported / "README.md")
    results = {result.dataset_type: result.metric_value for result in card.data.eval_results}
    assert results == {task: round(loss, 6) for task, loss in losses.items()}
    assert list(card_errors((exported / "README.md").read_text())) == []
    data = metadata_load(exported / "README.md")
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("other", "transformers", "text-generation")
    assert "base_model" not in data  # a local folder is no id
    assert "<|im_start|>user\nWrite a function that reverses a list.<|im_end|>" in card.text
    for plot in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert (exported / plot).read_text().startswith("<svg")
    assert len(list(exported.glob("plots/*.svg"))) == 3
    everything = b"".join(file.read_bytes() for file in exported.rglob("*") if file.is_file())
    assert str(runs["full"].parent).encode() not in everything


def test_another_folder_is_never_replaced_and_an_export_only_when_asked(runs, exported, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = command("export", runs["lora"], "--to", tmp_path / "mine", "--overwrite", "--no-verify")
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    subprocess.run(["cp", "-r", exported, tmp_path / "old"], check=True)
    done = command("export", runs["full"], "--to", tmp_path / "old", "--no-verify")
    assert done.returncode == 2
    assert "Add --overwrite" in done.stderr
    succeed("export", runs["full"], "--to", tmp_path / "old", "--overwrite", "--no-verify")
    assert [file.name for file in (tmp_path / "old").glob("*.safetensors*")] == ["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old"]


def test_an_export_that_is_killed_leaves_nothing_that_looks_done(runs, tmp_path):
    words = [*MFTCODER, "export", str(runs["full"]), "--to", str(tmp_path / "out")]
    process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("out.partial/*.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("out.partial/*.safetensors"))
    assert not (tmp_path / "out").exists()
    export(runs["full"], tmp_path / "out", Options(verify=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_card_names_no_secret_and_no_path_of_this_machine(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345")
    found = without_machine(
        {
            "a": ["/home/me/base", "org/base"],
            "b": "x abcdefgh12345",
            "c": "hf_" + "A" * 20,
            "d": "s3://me:pw@host/x",
            "e": 3,
        }
    )
    assert found == {
        "a": ["base", "org/base"],
        "b": "x <SOME_API_KEY>",
        "c": "<token>",
        "d": "s3://host/x",
        "e": 3,
    }


def test_generation_stops_at_the_end_of_a_turn_and_at_the_end_of_a_text():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    found = _generation_config(None, tokenizer)
    assert sorted(tokenizer.convert_ids_to_tokens(found.eos_token_id)) == ["<|endoftext|>", "<|im_end|>"]
    tokenizer.chat_template = None
    assert tokenizer.convert_ids_to_tokens(_generation_config(None, tokenizer).eos_token_id) == "<|endoftext|>"


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_new_tokens_and_holes_are_exported_with_tied_heads(write_config, project, tmp_path, kind):
    base, new = tmp_path / "base", ["<PRE>", "<SUF>", "<MID>"]
    tiny_llama(tie_word_embeddings=True).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    (base / "tokenizer.model").write_bytes(b"the scores of sentencepiece")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"{i} and {i + 1}"}) + "\n" for i in range(40)))
    model = {"path": str(base), "dtype": "float32", "new_tokens": new}
    model |= {"lora": {"rank": 4, "dropout": 0.0}} if kind == "lora" else {}
    task = {"name": "texts", "path": str(tmp_path / "texts.jsonl"), "fim": {"rate": 0.5, "sentinels": new}}
    changes = {"model": model, "data__tasks": [task], "data__shards": None, "loss": {}, "training__max_steps": 4}
    changes |= {"training__learning_rate": 1e-2, "training__gradient_accumulation_steps": 1}
    config = write_config("run", **changes)
    succeed("train", config)
    run, shards = tmp_path / "run", tmp_path / "run" / "shards"
    export(run, tmp_path / "merged", Options())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert merged.config.tie_word_embeddings
    assert merged.config.vocab_size == len(tokenizer)
    assert (tmp_path / "merged" / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    added = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {added[str(tokenizer.convert_tokens_to_ids(token))]["content"] for token in new} == {*new}
    assert "after `<PRE>` prefix `<SUF>` suffix `<MID>`" in (tmp_path / "merged" / "README.md").read_text()
    hole, sampling = Infilling("1 a", "2"), Sampling(max_new_tokens=5)
    (named,) = generate(str(tmp_path / "merged"), [hole._replace(sentinels=tuple(new))], sampling)
    for place in (run, run / "checkpoints" / "step-4", tmp_path / "merged"):
        assert generate(str(place), [hole], sampling) == [named]
    if kind == "full":
        return
    export(run, tmp_path / "adapter", Options(merge=False))
    (saved,) = (name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "embed" in name)
    assert saved.endswith("trainable_tokens_delta")  # and not the whole matrix
    ids = torch.tensor([[5, len(tokenizer) - 1, 7, len(tokenizer) - 3]])
    with torch.no_grad():
        adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert generate(str(tmp_path / "adapter"), [hole], sampling) == [named]
    found = [evaluate(str(tmp_path / name), Shards.open(shards))["tasks"]["texts"] for name in ("adapter", "merged")]
    assert found[0]["nll"] == pytest.approx(found[1]["nll"], rel=1e-4)


def test_an_adapter_names_its_base_model_by_its_hub_id(runs, tmp_path):
    words = ("export", runs["lora"], "--to", tmp_path / "adapter", "--adapter", "--no-verify")
    done = command(*words, "--push", "org/x")
    assert done.returncode == 2
    assert "Export it with --base-model" in done.stderr
    assert not (tmp_path / "adapter").exists()
    succeed(*words, "--base-model", "org/base")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "org/base"
    data = metadata_load(tmp_path / "adapter" / "README.md")
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "adapter")


MEASURE = """
import os, sys, threading, time
from pathlib import Path
from mftcoder.export.folder import Options, _generation_config, export
from mftcoder.export.sections import without_machine
import mftcoder.engine.deepspeed, peft, transformers.models.llama.modeling_llama
def private():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
start, peak, done = private(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, private())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
export(Path(sys.argv[1]), Path(sys.argv[2]), Options(checkpoint="last", max_shard_size="20MB"), print)
done = True
thread.join()
print(peak - start)
"""


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_memory_is_one_copy_of_the_model_and_a_shard(write_config, tmp_path, stage):

    from tiny import tiny_tokenizer

    tiny_llama(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=8192).to(
        torch.bfloat16
    ).save_pretrained(tmp_path / "large")
    tiny_tokenizer().save_pretrained(tmp_path / "large")
    size = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    changes = {"model__path": str(tmp_path / "large"), "model__dtype": "bfloat16", "training__max_steps": 1}
    changes |= {"deepspeed": {"zero_optimization": {"stage": stage}}, "training__eval_steps": 100}
    changes |= {"training__gradient_accumulation_steps": 1, "loss__weighting": {"type": "uniform"}}
    succeed("train", write_config("run", **changes), ranks=2)
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "run"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    used = int(done.stdout.splitlines()[-1])
    print(f"ZeRO-{stage}: {used / 2**20:.0f} MiB for a model of {size / 2**20:.0f} MiB")
    assert used < size + 20e6 + 60 * 2**20  # buffers of the forward pass, and what libraries keep
    assert os.path.exists(tmp_path / "out" / "README.md")
