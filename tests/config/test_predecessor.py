import json

import pytest

from mftcoder.config import parse
from mftcoder.config.predecessor import import_config
from mftcoder.errors import MftcoderError

FULL = {
    "data_paths": "[tasks/exercise.jsonl, tasks/text2sql]",
    "output_dir": "runs/old",
    "tb_dir": "tb",
    "pretrained_model_path": "models/llama",
    "model_type": "llama",
    "load_raw_dataset": True,
    "data_split": "95,5,0",
    "padding_mode": "padding",
    "use_dynamic_padding": True,
    "tokenize_mode": "sft",
    "tokenizer_type": "AutoTokenizer",
    "weighted_loss_mode": "coba",
    "coba_warmup_steps": 30,
    "coba_history_length": 60,
    "coba_tau": 4,
    "coba_update_interval": 2,
    "coba_sample_valid_num": 1,
    "attn_implementation": "sdpa",
    "seq_length": 1024,
    "seed": 7,
    "peft_type": "lora",
    "quantization": None,
    "lora_rank": 16,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj"],
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 3,
    "learning_rate": 1e-4,
    "min_lr": 1e-5,
    "weight_decay": 0.1,
    "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "linear",
    "num_warmup_steps": 0.1,
    "num_train_epochs": 5,
    "max_train_steps": 500,
    "resume_from_checkpoint": None,
    "auto_resume": True,
    "log_interval": 20,
    "checkpointing_steps": 50,
    "evaluation_steps": 25,
    "epoch_checkpointing": False,
    "early_stopping": True,
    "early_stopping_stall_num": 3,
    "saving_limit": 2,
    "role_markers": {"system": "S:", "user": "U:", "assistant": "A:"},
    "distributed_type": "FSDP",
}

EXPECTED = {
    "output_dir": "runs/old",
    "seed": 7,
    "model": {
        "path": "models/llama",
        "attention": "sdpa",
        "lora": {"rank": 16, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj"]},
    },
    "data": {
        "sequence_length": 1024,
        "tasks": [{"name": "exercise", "path": "tasks/exercise.jsonl"}, {"name": "text2sql", "path": "tasks/text2sql"}],
        "validation_fraction": 0.05,
        "packing": {"mode": "pad"},
        "chat": {"type": "markers", "system": "S:", "user": "U:", "assistant": "A:"},
    },
    "loss": {
        "reduction": {"type": "token"},
        "weighting": {
            "type": "coba",
            "warmup_steps": 30,
            "window_steps": 60,
            "temperature": 4,
            "probe": {"every_steps": 2},
        },
    },
    "training": {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "gradient_accumulation_steps": 4,
        "learning_rate": 1e-4,
        "min_learning_rate": 1e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "num_train_epochs": 5,
        "max_steps": 500,
        "weight_decay": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 25,
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 2,
        "early_stopping_patience": 3,
    },
    "deepspeed": {"zero_optimization": {"stage": 3}},
    "logging": {"logging_steps": 20},
}


@pytest.fixture
def imported(tmp_path):
    """Import FULL with some keys changed; None takes the key away."""

    def run(without=(), **changes):
        path = tmp_path / "old.json"
        old = {key: value for key, value in (FULL | changes).items() if key not in without}
        path.write_text(json.dumps(old), encoding="utf-8")
        return import_config(path)

    return run


def test_a_full_config_comes_over_key_by_key(imported):
    config, notes = imported()
    assert config == EXPECTED
    parse(config)
    noted = {note.split(":")[0].split(" ")[0] for note in notes}
    assert {key for key, value in FULL.items() if value is not None} <= noted


def test_left_out_keys_get_the_defaults_of_mftcoder(imported):
    config, notes = imported(without=set(FULL) - {"data_paths", "output_dir", "pretrained_model_path"})
    assert config["data"]["sequence_length"] == 4096
    assert config["data"]["validation_fraction"] == 0.02
    assert config["model"]["lora"] == {"rank": 96, "alpha": 32, "dropout": 0.05}
    assert config["training"]["num_train_epochs"] == 4
    assert config["training"]["min_learning_rate"] == 5e-6
    assert config["loss"]["weighting"] == {"type": "uniform"}
    assert any(note.startswith("seq_length (default 4096): ") for note in notes)


@pytest.mark.parametrize(
    ("mode", "reduction", "weighting"),
    [
        ("case1", "token", "proportional"),
        ("case2", "sample", "proportional"),
        ("case3", "token", "uniform"),
        ("case4", "sample", "uniform"),
    ],
)
def test_each_loss_mode_has_its_counterpart(imported, mode, reduction, weighting):
    loss = imported(weighted_loss_mode=mode)[0]["loss"]
    assert loss == {"reduction": {"type": reduction}, "weighting": {"type": weighting}}


@pytest.mark.parametrize("weights", ["[1, 3]", "1,3", [1, 3]])
def test_task_weights_are_given_by_name(imported, weights):
    weighting = imported(weighted_loss_mode="case3", task_weights=weights)[0]["loss"]["weighting"]
    assert weighting == {"type": "given", "weights": {"exercise": 1.0, "text2sql": 3.0}}


@pytest.mark.parametrize(
    ("padding", "dynamic", "packing"),
    [
        ("padding", True, {"mode": "pad"}),
        ("padding", False, {"mode": "pad_to_max"}),
        ("pack", True, {"mode": "pack", "isolate_samples": False}),
        ("concat", True, {"mode": "pack", "isolate_samples": False}),
    ],
)
def test_each_padding_mode_has_its_counterpart(imported, padding, dynamic, packing):
    assert imported(padding_mode=padding, use_dynamic_padding=dynamic)[0]["data"]["packing"] == packing


def test_null_peft_type_trains_all_parameters(imported):
    assert "lora" not in imported(peft_type=None)[0]["model"]


def test_a_constant_schedule_leaves_the_minimal_learning_rate_out_with_a_note(imported):
    config, notes = imported(lr_scheduler_type="constant_with_warmup")
    assert "min_learning_rate" not in config["training"]
    assert any(note.startswith("min_lr: no effect") for note in notes)


@pytest.mark.parametrize(("peft_type", "quantized"), [("qlora", {"type": "nf4"}), ("lora", None)])
def test_only_qlora_is_quantized_and_notes_say_so(imported, peft_type, quantized):
    config, notes = imported(peft_type=peft_type, quantization="4bit")
    assert config["model"]["lora"]["rank"] == 16
    assert config["model"].get("quantization") == quantized
    assert any(note.startswith("quantization: no effect") for note in notes) == (quantized is None)


def test_tasks_of_one_name_are_numbered(imported):
    tasks = imported(data_paths=["a/data", "b/data.jsonl", "c"])[0]["data"]["tasks"]
    assert [task["name"] for task in tasks] == ["data-1", "data-2", "c"]


def test_old_spelling_placeholders_and_unknown_keys_are_noted(imported):
    config, notes = imported(without={"evaluation_steps"}, evalation_steps=9, output_dir="$OUT", warmth=1)
    assert config["training"]["eval_steps"] == 9
    assert "output_dir: output_dir. $OUT is a placeholder: put the real value there." in notes
    assert "warmth: no effect: MFTCoder has no such key." in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighted_loss_mode": "selfpaced"}, 'weighted_loss_mode "selfpaced" cannot be carried over'),
        ({"load_raw_dataset": False}, "load_raw_dataset is false"),
        ({"data_split": "95"}, 'data_split must be three shares such as "98,2,0"; found "95"'),
        ({"data_split": "most,2,0"}, "data_split must be numbers"),
        ({"task_weights": "1", "weighted_loss_mode": "case3"}, "task_weights has 1 numbers for 2 data_paths"),
        ({"lr_scheduler_type": "polynomial"}, 'lr_scheduler_type "polynomial" cannot be carried over'),
        ({"peft_type": "prefix"}, 'found "prefix"'),
        ({"data_paths": None}, "data_paths: missing"),
        ({"learning_rate": -1}, "training.learning_rate: must be greater than 0; found -1."),
    ],
)
def test_what_cannot_come_over_is_refused_with_the_reason(imported, change, message):
    with pytest.raises(MftcoderError) as caught:
        imported(**change)
    assert message in str(caught.value)
    assert "old.json" in str(caught.value)
