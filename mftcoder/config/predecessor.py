"""Training configs of MFTCoder (its released, flat JSON) become ours. Nothing is left out without a note."""

import re
from pathlib import Path
from typing import Any

from mftcoder.config.load import parse, read_json
from mftcoder.config.problems import show
from mftcoder.errors import MftcoderError

# The values that MFTCoder takes where its config says nothing.
DEFAULTS: dict[str, Any] = {
    "data_split": "98,2,0",
    "padding_mode": "padding",
    "use_dynamic_padding": True,
    "seq_length": 4096,
    "weighted_loss_mode": "case3",
    "coba_warmup_steps": 100,
    "coba_history_length": 200,
    "coba_tau": 5,
    "coba_update_interval": 1,
    "peft_type": "qlora",
    "lora_rank": 96,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "attn_implementation": "flash_attention_2",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "min_lr": 5e-6,
    "weight_decay": 0.01,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "cosine",
    "num_warmup_steps": 0.05,
    "num_train_epochs": 4,
    "seed": 1234,
    "log_interval": 10,
    "checkpointing_steps": 100,
    "evaluation_steps": 100,
    "epoch_checkpointing": False,
    "early_stopping": True,
    "early_stopping_stall_num": 5,
}
RESPELT = {"evalation_steps": "evaluation_steps"}  # as its older configs have it
REQUIRED = ("data_paths", "output_dir", "pretrained_model_path")

COPIED = {
    "output_dir": "output_dir",
    "seed": "seed",
    "pretrained_model_path": "model.path",
    "seq_length": "data.sequence_length",
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "per_device_eval_batch_size": "training.per_device_eval_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "min_lr": "training.min_learning_rate",
    "weight_decay": "training.weight_decay",
    "num_warmup_steps": "training.warmup_steps",
    "num_train_epochs": "training.num_train_epochs",
    "checkpointing_steps": "training.save_steps",
    "evaluation_steps": "training.eval_steps",
    "saving_limit": "training.save_total_limit",
    "log_interval": "logging.logging_steps",
}

NO_EFFECT = {
    "model_type": "the model's own config names its type",
    "tokenizer_type": "the model's own tokenizer is used",
    "use_slow_tokenizer": "fast tokenizers are used",
    "vocab_file": "the tokenizer lies beside the model",
    "tokenize_mode": "conversations and plain text are told apart by their records",
    "tb_dir": "TensorBoard events are written below output_dir",
    "load_raw_dataset": "records are tokenized into shards first, by `mftcoder tokenize` or at the start of training",
    "data_weights": "it never had an effect",
    "shuffle_before_split": "validation samples are chosen by a hash",
    "use_random_sampler": "rows are always shuffled, by the seed",
    "weight_by_num_documents": "it never had an effect",
    "make_vocab_size_divisible_by": "it never had an effect",
    "model_parallel_size": "it never had an effect",
    "world_size": "the launcher decides it",
    "use_xformers": "model.attention decides it",
    "low_cpu_mem_usage": "it is always on",
    "init_timeout_seconds": "set DEEPSPEED_TIMEOUT (minutes) in the environment",
    "auto_resume": "ask for it: `mftcoder train CONFIG --resume`",
}

LOSSES = {  # weighted_loss_mode -> reduction, weighting
    "case1": ("token", "proportional"),
    "case2": ("sample", "proportional"),
    "case3": ("token", "uniform"),
    "case4": ("sample", "uniform"),
    "coba": ("token", "coba"),
}
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}

Values = dict[str, Any]
Notes = dict[str, str]  # key of MFTCoder -> what became of it


def import_config(path: str | Path) -> tuple[Values, list[str]]:
    """Our config for MFTCoder's at ``path``, and a note on every key: what it became, or why it has no effect.

    Keys that the file leaves out, or sets to null, get MFTCoder's defaults. Raises MftcoderError for what cannot be
    carried over.
    """
    raw = read_json(path)
    given = {RESPELT.get(key, key): value for key, value in raw.items() if value is not None}
    if missing := [key for key in REQUIRED if key not in given]:
        raise MftcoderError(f"{path}: {', '.join(missing)}: missing. A training config of MFTCoder has them.")
    if raw.get("peft_type", "qlora") is None:
        given["peft_type"] = None  # the one default that null switches off: full-parameter training
    old, notes = DEFAULTS | given, {key: f"no effect: {why}." for key, why in NO_EFFECT.items() if key in given}
    new: Values = {section: {} for section in ("model", "data", "loss", "training", "logging")}
    for key, dotted in COPIED.items():
        if key in old:
            section, _, name = dotted.rpartition(".")
            (new[section] if section else new)[name] = old[key]
            notes[key] = f"{dotted}."
    try:
        for carry_over in (_data, _loss, _model, _training, _engine):
            carry_over(old, new, notes)
    except MftcoderError as error:
        raise MftcoderError(f"{path}: {error}") from None
    for key in given.keys() - notes.keys():
        notes[key] = "no effect: MFTCoder has no such key."
    for key, value in given.items():
        if str(value).startswith("$") and not notes[key].startswith("no effect"):
            notes[key] += f" {value} is a placeholder: put the real value there."
    parse(new, where=f"{path} (imported)")
    return new, [
        f"{key}{'' if key in given else f' (default {show(old.get(key))})'}: {notes[key]}" for key in sorted(notes)
    ]


def _data(old: Values, new: Values, notes: Notes) -> None:
    if old.get("load_raw_dataset") is False:
        raise MftcoderError("load_raw_dataset is false: its .bin/.idx files cannot be read. Name the raw .jsonl files.")
    paths = _items(old["data_paths"])
    names = [
        re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).name.split(".jsonl")[0]).strip("-._") or "task" for path in paths
    ]
    unique = [f"{name}-{i}" if names.count(name) > 1 else name for i, name in enumerate(names, start=1)]
    new["data"]["tasks"] = [{"name": name, "path": path} for name, path in zip(unique, paths, strict=True)]
    notes["data_paths"] = f"data.tasks, one for each path: {', '.join(unique)}."
    shares = _numbers("data_split", old["data_split"])
    if len(shares) != 3 or sum(shares) <= 0:
        raise MftcoderError(f'data_split must be three shares such as "98,2,0"; found {show(old["data_split"])}.')
    new["data"]["validation_fraction"] = shares[1] / sum(shares)
    notes["data_split"] = "data.validation_fraction, the second share." + (
        " The third (test) is not split off; it was never used." if shares[2] else ""
    )
    if old["padding_mode"] == "padding":
        mode = "pad" if old["use_dynamic_padding"] else "pad_to_max"
        new["data"]["packing"] = {"mode": mode}
        notes["padding_mode"] = notes["use_dynamic_padding"] = f"data.packing.mode is {mode}."
    else:
        new["data"]["packing"] = {"mode": "pack", "isolate_samples": False}
        notes["padding_mode"] = (
            "data.packing; as in MFTCoder, samples of a row see each other (isolate_samples: false)."
        )
        notes["use_dynamic_padding"] = "no effect: rows are packed."
    markers = old.get("role_markers", {})
    if not isinstance(markers, dict):
        raise MftcoderError(f"role_markers must be an object of texts; found {show(markers)}.")
    new["data"]["chat"] = {"type": "markers"} | markers
    notes["role_markers"] = "data.chat; texts that are not given are MFTCoder's own."


def _loss(old: Values, new: Values, notes: Notes) -> None:
    mode = old["weighted_loss_mode"]
    if not isinstance(mode, str) or mode not in LOSSES:
        raise MftcoderError(
            f"weighted_loss_mode {show(mode)} cannot be carried over. Choose one of {', '.join(LOSSES)}."
        )
    reduction, weighting = LOSSES[mode]
    new["loss"] = {"reduction": {"type": reduction}, "weighting": {"type": weighting}}
    notes["weighted_loss_mode"] = f"loss.reduction is {reduction}, loss.weighting is {weighting}, over whole steps."
    if weighting == "coba":
        new["loss"]["weighting"] |= {
            "warmup_steps": old["coba_warmup_steps"],
            "window_steps": old["coba_history_length"],
            "temperature": old["coba_tau"],
            "probe": {"every_steps": old["coba_update_interval"]},
        }
        notes["coba_warmup_steps"] = "loss.weighting.warmup_steps."
        notes["coba_history_length"] = "loss.weighting.window_steps."
        notes["coba_tau"] = "loss.weighting.temperature."
        notes["coba_update_interval"] = "loss.weighting.probe.every_steps."
        notes["coba_sample_valid_num"] = (
            "no effect: the probe is one fixed set of rows; see loss.weighting.probe.tokens."
        )
    for key in old:
        if key.startswith(("coba_", "selfpaced_")):
            notes.setdefault(key, f"no effect with weighted_loss_mode {mode}.")
    if "task_weights" in old:
        _task_weights(old, new, notes)


def _task_weights(old: Values, new: Values, notes: Notes) -> None:
    weights, tasks = _numbers("task_weights", old["task_weights"]), new["data"]["tasks"]
    if new["loss"]["weighting"]["type"] != "uniform":
        notes["task_weights"] = f"no effect with weighted_loss_mode {old['weighted_loss_mode']}."
        return
    if len(weights) != len(tasks):
        raise MftcoderError(f"task_weights has {len(weights)} numbers for {len(tasks)} data_paths. Give one for each.")
    named = {task["name"]: weight for task, weight in zip(tasks, weights, strict=True)}
    new["loss"]["weighting"] = {"type": "given", "weights": named}
    notes["task_weights"] = "loss.weighting is given."


def _model(old: Values, new: Values, notes: Notes) -> None:
    if old["peft_type"] not in (None, "lora", "qlora"):
        raise MftcoderError(f'peft_type must be null, "lora" or "qlora"; found {show(old["peft_type"])}.')
    keys = {"lora_rank": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "target_modules"}
    if old["peft_type"] is None:
        notes["peft_type"] = "all parameters are trained."
        notes |= {key: "no effect without peft_type." for key in [*keys, "quantization"] if key in old}
    else:
        new["model"]["lora"] = {name: old[key] for key, name in keys.items() if key in old}
        notes |= {key: f"model.lora.{name}." for key, name in keys.items() if key in old}
        notes["peft_type"] = "model.lora."
        if old["peft_type"] == "qlora":
            new["model"]["quantization"] = {"type": "nf4"}
            notes["peft_type"] = "model.lora, and model.quantization: nf4, double quantization."
        notes.setdefault("target_modules", "model.lora.target_modules: all linear layers.")
        if "quantization" in old:
            notes["quantization"] = (
                f"model.quantization: nf4, where it was {show(old['quantization'])}."
                if old["peft_type"] == "qlora"
                else "no effect with peft_type lora: the base model is not quantized."
            )
    flash = old["attn_implementation"] == "flash_attention_2"
    new["model"]["attention"] = "auto" if flash else old["attn_implementation"]
    notes["attn_implementation"] = "model.attention" + (
        ": auto, FlashAttention where it is installed." if flash else "."
    )
    if "trust_remote_code" in old:
        notes["trust_remote_code"] = "left off; set model.trust_remote_code if the model brings its own code."


def _training(old: Values, new: Values, notes: Notes) -> None:
    training = new["training"]
    schedule = old["lr_scheduler_type"]
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise MftcoderError(
            f"lr_scheduler_type {show(schedule)} cannot be carried over. Choose one of {', '.join(SCHEDULES)}."
        )
    training["lr_scheduler_type"] = SCHEDULES[schedule]
    notes["lr_scheduler_type"] = "training.lr_scheduler_type; it counts optimizer steps."
    if training["lr_scheduler_type"] == "constant":
        del training["min_learning_rate"]
        notes["min_lr"] = "no effect: the learning rate is constant."
    if "max_train_steps" in old:
        training["max_steps"] = old["max_train_steps"]
        notes["max_train_steps"] = "training.max_steps."
    training |= {"eval_strategy": "steps", "save_strategy": "steps"}
    if old["epoch_checkpointing"]:
        notes["epoch_checkpointing"] = "no effect: checkpoints are written by steps, and always at the end."
    else:
        notes["epoch_checkpointing"] = "checkpoints are written by steps."
    if old["early_stopping"]:
        training["early_stopping_patience"] = old["early_stopping_stall_num"]
        notes["early_stopping"] = notes["early_stopping_stall_num"] = (
            "training.early_stopping_patience, in evaluations."
        )
    else:
        notes["early_stopping"] = notes["early_stopping_stall_num"] = "early stopping is off."
    if "resume_from_checkpoint" in old:
        notes["resume_from_checkpoint"] = (
            "no effect: a checkpoint of MFTCoder cannot be resumed, only our own (--resume)."
        )


def _engine(old: Values, new: Values, notes: Notes) -> None:
    stage = 3 if str(old.get("distributed_type")).lower() == "fsdp" else 2
    new["deepspeed"] = {"zero_optimization": {"stage": stage}}
    notes["distributed_type"] = f"deepspeed, ZeRO stage {stage}; MFTCoder had its stage in accelerate's YAML file."


def _items(value: Any) -> list[str]:
    """MFTCoder writes lists as JSON lists, as ``"[a, b]"`` or as ``"a,b"``."""
    parts = value if isinstance(value, list) else str(value).strip("[] ").split(",")
    return [str(part).strip(" '\"") for part in parts]


def _numbers(key: str, value: Any) -> list[float]:
    try:
        return [float(item) for item in _items(value)]
    except ValueError:
        raise MftcoderError(f'{key} must be numbers such as "1,2"; found {show(value)}.') from None
