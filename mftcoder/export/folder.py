"""A run's model as a Hugging Face folder: safetensors, config, generation config, tokenizer, chat template, card."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.config.schema import Config
from mftcoder.data.chat import load_tokenizer, stop_token_ids
from mftcoder.errors import MftcoderError
from mftcoder.export.card import write_card
from mftcoder.export.hub import without_base
from mftcoder.export.record import is_ours, write_record
from mftcoder.export.sections import base_id
from mftcoder.export.tokenizer import save_tokenizer
from mftcoder.export.verify import describe, expect, real_samples, verify
from mftcoder.locks import locked
from mftcoder.models.load import add_adapters, load_causal
from mftcoder.models.lora import undo_pissa
from mftcoder.training.checkpoint import Checkpoint
from mftcoder.training.trained import load_trained, open_run


@dataclass(frozen=True)
class Options:
    """How to export."""

    checkpoint: str = "best"  # or "last", "step-N"
    merge: bool = (
        True  # adapters into the weights, dequantized if they were in 4 bits; else the adapter alone, for peft
    )
    verify: bool = True  # reload the folder in a fresh process and compare
    overwrite: bool = False  # an earlier export
    max_shard_size: str | None = None  # None: by the config
    base_model: str | None = None  # hub id of the base model; None: by the config


def export(run: Path, to: Path, options: Options = Options(), tell: Callable[[str], None] = print) -> Path:
    """Write the model of ``run`` to ``to``. Returns the checkpoint it came from.

    The folder appears whole or not at all. In memory is one copy of the model, and a shard of it; checkpoints may be of
    any ZeRO stage and number of ranks, and no GPU is needed.

    Args:
        run: output_dir of a run, or one of its checkpoints.
        to: must not exist or be empty, unless it is an earlier export and ``options.overwrite`` is set.
        tell: takes lines for the user.
    """
    config, found = open_run(run, options.checkpoint)
    if not options.merge:
        _check_adapter(run, config)
    # What was forced for the GPUs of the training is of no concern here.
    config = config.model_copy(update={"model": config.model.model_copy(update={"attention": "auto"})})
    config = _with_base(config, options.base_model)
    aside = to.with_name(to.name + ".partial")
    try:
        with locked(to.with_name(f".{to.name}.lock"), f"an export to {to}", tell):
            _check_target(to, options.overwrite)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            try:
                _write(aside, config, found, options, tell)
                _replace(aside, to)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise MftcoderError(f"--to: cannot write {to}: {error.strerror or error}.") from error
    return found.path


def check_base(run: Path, checkpoint: str, base_model: str | None) -> None:
    """MftcoderError if an adapter of ``run`` would name its base model by a folder of this machine."""
    config, _ = open_run(run, checkpoint)
    if base_id(_with_base(config, base_model)) is None:
        raise MftcoderError(without_base(config.model.path))


def _with_base(config: Config, hub_id: str | None) -> Config:
    """``config`` with ``hub_id``, if there is one, as its ``export.base_model``."""
    if hub_id is None:
        return config
    return config.model_copy(update={"export": config.export.model_copy(update={"base_model": hub_id})})


def _check_adapter(run: Path, config: Config) -> None:
    if config.model.lora is None:
        raise MftcoderError(f"--adapter: {run} trained all parameters, so there is no adapter. Leave the option out.")
    if config.model.rope_scaling:
        raise MftcoderError(
            f"--adapter: {run} was trained with model.rope_scaling, which an adapter cannot carry. Leave the option "
            "out."
        )


def _check_target(to: Path, overwrite: bool) -> None:
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not is_ours(to):
        raise MftcoderError(f"--to: {to} is not empty. Name a new folder, or delete it.")
    if not overwrite:
        raise MftcoderError(f"--to: {to} holds an earlier export. Add --overwrite, or name a new folder.")


def _write(aside: Path, config: Config, found: Checkpoint, options: Options, tell: Callable[[str], None]) -> None:
    tokenizer = load_tokenizer(config.model, config.data.chat)
    run_folder = found.path.parent.parent
    info = json.loads((run_folder / "run.json").read_bytes())
    expected = findings = None
    lora = config.model.lora
    before = _factors(config) if lora and lora.initialization == "pissa" and not options.merge else None
    model = load_trained(config, found).eval()
    if options.verify:
        samples = real_samples(config, info.get("data", {}).get("fingerprint"))
        if not samples:
            tell("the run's shards are not there any more, so the export is checked on a line of text only")
        expected = expect(config, model, tokenizer, samples)
    if config.model.quantization and options.merge:
        del model  # before the next one comes
        model = load_trained(config, found, dequantize=True)
    if before is not None:
        undo_pissa(model, before)
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    _save_model(model, tokenizer, aside, options.max_shard_size or config.export.max_shard_size, config, options.merge)
    del model
    save_tokenizer(tokenizer, config.model, aside)
    if expected:
        findings = verify(aside, config, expected, merged=options.merge, num_embeddings=num_embeddings)
        tell(f"reloaded in a fresh process: {describe(findings)}")
    write_record(aside, run_folder, config, found, findings)
    write_card(aside, run_folder, config, found, tokenizer, merged=options.merge, findings=findings)


def _factors(config: Config) -> dict[str, Any]:
    """The factors that PiSSA began with."""
    assert config.model.lora is not None
    initial = add_adapters(load_causal(config.model), config.model)
    return {name: factor.detach().clone() for name, factor in initial.named_parameters() if ".lora_" in name}


def _save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    max_shard_size: str,
    config: Config,
    merge: bool,
) -> None:
    if not merge:
        _save_adapter(model, folder, config)
        return
    if config.model.lora is not None:
        model = model.merge_and_unload(safe_merge=True)
    model.config.use_cache = True  # off in training only
    model.generation_config = _generation_config(model.generation_config, tokenizer)
    model.save_pretrained(folder, max_shard_size=max_shard_size)


def _save_adapter(model: PreTrainedModel, folder: Path, config: Config) -> None:
    settings = model.peft_config["default"]
    if hub_id := base_id(config):
        settings.base_model_name_or_path = hub_id
        settings.revision = config.model.revision
    # Rows of new tokens are in the adapter; the base model has the others. By itself peft would write the whole matrix,
    # and ask the hub whether it has grown.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own, empty card


def _generation_config(existing: GenerationConfig | None, tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    generation = existing or GenerationConfig()
    generation.use_cache = True
    stops = stop_token_ids(tokenizer)
    if stops:
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
        generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    return generation


def _replace(aside: Path, to: Path) -> None:
    """Put ``aside``, on the disk to its last byte, in the place of ``to``."""
    for path in [*aside.rglob("*"), aside]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    earlier = to.with_name(to.name + ".replaced")
    if to.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        os.replace(to, earlier)
    os.replace(aside, to)
    shutil.rmtree(earlier, ignore_errors=True)
