"""What goes wrong in the life of a run, and what must not follow from it."""

import json
import os
import shutil
import subprocess
import time

import pytest
from end_to_end_project import ENVIRONMENT, MFTCODER, command, succeed
from test_resume import last_checkpoint, losses_logged
from tiny import tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.engine


def test_starting_anew_with_resume_leaves_no_line_of_the_run_that_was_killed_before_its_first_save(
    write_config, tmp_path
):
    config = write_config("run", training__max_steps=4, logging__logging_steps=1)
    succeed("train", config)
    before = losses_logged(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    succeed("train", config, "--resume")
    assert losses_logged(tmp_path / "run") == before


def test_resuming_after_early_stopping_trains_no_further(write_config, tmp_path):
    changes = {"training__learning_rate": 3.0, "training__early_stopping_patience": 2, "training__eval_steps": 1}
    config = write_config("run", **changes)
    assert "early stopping" in succeed("train", config)
    stopped = losses_logged(tmp_path / "run")
    assert stopped[-1]["step"] < 42
    assert "early stopping" in succeed("train", config, "--resume")
    assert losses_logged(tmp_path / "run") == stopped


def test_the_best_checkpoint_is_named_when_it_was_not_kept(write_config, tmp_path):
    changes = {"training__learning_rate": 3.0, "training__max_steps": 3, "training__eval_steps": 1}
    succeed("train", write_config("run", **changes))
    done = command("export", tmp_path / "run", "--to", tmp_path / "out")
    assert done.returncode == 2
    assert "best validation was at step 0" in done.stderr
    assert "step-000003" in done.stderr
    succeed("export", tmp_path / "run", "--to", tmp_path / "out", "--checkpoint", "last", "--no-verify")


def test_a_second_process_on_one_output_dir_is_refused(write_config, tmp_path):
    config = write_config("run", training__num_train_epochs=200, training__save_steps=5)
    first = subprocess.Popen(
        [*MFTCODER, "train", config], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/*/checkpoint.json")):
            assert time.monotonic() < end
            time.sleep(0.05)
        done = command("train", config, "--resume")
        assert first.poll() is None, "the first run ended; the test shows nothing"
    finally:
        first.kill()
        first.wait()
    assert done.returncode == 2
    assert "another process is training" in done.stderr


def test_lora_on_the_head_is_refused(write_config):
    done = command("train", write_config("run", model__lora={"target_modules": ["lm_head", "q_proj"]}))
    assert done.returncode == 2
    assert "output projection" in done.stderr


def test_a_line_of_metrics_that_is_no_json_is_named(write_config, tmp_path):
    config = write_config("run", training__max_steps=2)
    succeed("train", config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("what?\n" + metrics.read_text())
    done = command("train", config, "--resume")
    assert done.returncode == 2
    assert "metrics.jsonl:1:" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_during_a_save_keeps_the_checkpoint_before(write_config, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        config = write_config("run", output_dir=str(small / "run"), training__max_steps=12, logging__report_to=[])
        done = command("train", config)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "could not be written" in done.stderr
        kept = sorted(path.parent.name for path in (small / "run").glob("checkpoints/*/checkpoint.json"))
        assert kept
        assert sorted(path.name for path in (small / "run" / "checkpoints").iterdir()) == kept
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert f"resuming from {small / 'run' / 'checkpoints' / kept[-1]}" in succeed("train", config, "--resume")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_export_of_a_tokenizer_that_transformers_would_change_on_the_way(tmp_path, write_config):
    """Llama's `legacy` decides how words are split, and save_pretrained leaves it out."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer

    from mftcoder.config.schema import Model
    from mftcoder.data.inputs import vocabulary_hash
    from mftcoder.export.tokenizer import save_tokenizer

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    folder = tmp_path / "llama"
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    save_tokenizer(tokenizer, Model(path=str(folder)), tmp_path / "out")
    assert vocabulary_hash(AutoTokenizer.from_pretrained(tmp_path / "out")) == vocabulary_hash(tokenizer)


def test_attention_that_a_family_lacks_is_not_chosen_for_it(tmp_path, write_config, project):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    Gemma2ForCausalLM(Gemma2Config(**shape, **heads)).save_pretrained(tmp_path / "gemma")
    tiny_tokenizer().save_pretrained(tmp_path / "gemma")
    succeed("train", write_config("run", model__path=str(tmp_path / "gemma"), training__max_steps=1))


def test_tied_embeddings_survive_training_and_export(tmp_path, write_config):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    tiny_tokenizer().save_pretrained(tmp_path / "tied")
    config = write_config(
        "run",
        model__path=str(tmp_path / "tied"),
        training__max_steps=3,
        training__gradient_accumulation_steps=1,
        deepspeed={"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
    )
    succeed("train", config, ranks=2)
    succeed("export", tmp_path / "run", "--to", tmp_path / "out", "--checkpoint", "last", "--no-verify")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    changed = model.get_input_embeddings().weight - tiny_llama().get_input_embeddings().weight
    assert changed.abs().max() > 1e-4


def test_a_reader_that_has_seen_enough_does_not_end_the_training(write_config, tmp_path):
    config = write_config("run", training__max_steps=8, logging__logging_steps=1)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    line = " ".join([*MFTCODER, "train", str(config)])
    subprocess.run(f"{line} | head -n 2", shell=True, check=True, capture_output=True, env=environment)
    assert last_checkpoint(tmp_path / "run").name == "step-000008"


def test_training_on_shards_that_are_older_than_the_sources_says_so(write_config, tmp_path):
    (tmp_path / "task.jsonl").write_text('{"text": "one two three"}\n{"text": "four five six"}\n')
    tasks = [{"name": "task", "path": str(tmp_path / "task.jsonl")}]
    changes = {"data__tasks": tasks, "data__shards": str(tmp_path / "shards"), "training__max_steps": 1}
    config = write_config("run", loss={}, **changes)
    succeed("tokenize", config)
    with (tmp_path / "task.jsonl").open("a") as file:
        file.write('{"text": "seven eight nine"}\n')
    assert "before the sources changed" in succeed("train", config)


def test_unknown_keys_of_deepspeed_and_tokens_without_an_embedding_are_refused_before_training(write_config, tmp_path):
    done = command("train", write_config("run", deepspeed={"zero_optimization": {"stage": 2, "foo": 1}}))
    assert done.returncode == 2
    assert "zero_optimization.foo" in done.stderr
    tiny_llama(vocab_size=200).save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    done = command("train", write_config("again", model__path=str(tmp_path / "small")))
    assert done.returncode == 2
    assert "embeds only ids below 200" in done.stderr
