"""A run's model as a Hugging Face folder: safetensors, config, generation config, tokenizer and chat template."""

import os
import shutil
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from mftcoder.data.chat import load_tokenizer, stop_token_ids
from mftcoder.data.inputs import vocabulary_hash
from mftcoder.errors import MftcoderError
from mftcoder.models.load import add_adapters, load_causal
from mftcoder.models.lora import undo_pissa
from mftcoder.training.trained import load_trained, open_run


def export(run: Path, to: Path, *, checkpoint: str = "best", merge: bool = True) -> Path:
    """Write the model of ``run`` to ``to``, which must not exist or be empty. Returns the checkpoint it came from.

    Args:
        run: output_dir of a run, or one of its checkpoints.
        to: the folder; it appears whole or not at all.
        checkpoint: "best", "last" or "step-N".
        merge: fold LoRA adapters into the weights, dequantized if they were in 4 bits; otherwise write the adapter
            alone, for peft.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise MftcoderError(f"--to: {to} is not empty. Name a new folder, or delete it.")
    config, found = open_run(run, checkpoint)
    if not merge and config.model.lora is None:
        raise MftcoderError(f"--adapter: {run} trained all parameters, so there is no adapter. Leave the option out.")
    model = load_trained(config, found, dequantize=merge)
    tokenizer = load_tokenizer(config.model, config.data.chat)
    if config.model.lora is not None and merge:
        model = model.merge_and_unload(safe_merge=True)
    elif config.model.lora is not None and config.model.lora.initialization == "pissa":
        undo_pissa(model, add_adapters(load_causal(config.model), config.model))
    aside = to.with_name(to.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        model.save_pretrained(aside)
        _save_tokenizer(tokenizer, aside)
        if merge:
            model.config.use_cache = True  # off in training only
            model.config.save_pretrained(aside)
            _generation_config(model.generation_config, tokenizer).save_pretrained(aside)
        if to.exists():
            to.rmdir()
        os.replace(aside, to)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise MftcoderError(f"--to: cannot write {to}: {error.strerror}.") from error
    return found.path


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """MftcoderError unless what was written encodes as ``tokenizer`` does."""
    if hasattr(
        tokenizer, "legacy"
    ):  # left out by save_pretrained, though it decides how Llama's tokenizer splits words
        tokenizer.init_kwargs["legacy"] = tokenizer.legacy
    tokenizer.save_pretrained(folder)
    if vocabulary_hash(AutoTokenizer.from_pretrained(folder)) != vocabulary_hash(tokenizer):
        raise MftcoderError(
            f"{folder}: transformers reads another tokenizer back than it was given; nothing is exported."
        )


def _generation_config(existing: GenerationConfig | None, tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    generation = existing or GenerationConfig()
    generation.use_cache = True
    stops = stop_token_ids(tokenizer)
    if stops:
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
        generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    return generation
