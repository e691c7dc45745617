"""Models to use: the trained model of a run, taken out of its checkpoint, or any folder or hub id of transformers."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.config.load import load
from mftcoder.config.schema import Config, Model, TemplateChat
from mftcoder.data.chat import load_tokenizer
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.models.load import add_lora, load_causal, load_config
from mftcoder.training.checkpoint import Checkpoint, find_checkpoint, verify_files


def open_run(folder: Path, which: str = "best") -> tuple[Config, Checkpoint]:
    """The config and a checkpoint of the run in ``folder``; ``which`` is "best", "last" or "step-N".

    ``folder`` may also be a checkpoint itself; then ``which`` does not count.
    """
    if (folder / "checkpoint.json").is_file():
        folder, which = folder.parent.parent, folder.name
    if not (folder / "run.json").is_file() or not (folder / "config.json").is_file():
        raise MftcoderError(f"{folder}: is no run: found no run.json. Give the output_dir of a training config.")
    return load(folder / "config.json"), find_checkpoint(folder, which)


def load_trained(config: Config, checkpoint: Checkpoint) -> PreTrainedModel:
    """The base model with the checkpoint's weights, on the CPU: a PeftModel if adapters were trained."""
    from mftcoder.engine.deepspeed import consolidated_weights

    verify_files(checkpoint, Group())
    causal = load_causal(config.model)
    model = causal if config.model.lora is None else add_lora(causal, config.model.lora)
    put_weights(model, consolidated_weights(checkpoint.path), checkpoint.path)
    return model


def put_weights(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Replace every trainable weight of ``model`` by the one of its name in ``weights``, which came from ``source``.

    MftcoderError if a weight has no counterpart, either way.
    """
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Of tied weights, named_parameters knows the first name only.
    lacking = sorted({name for name, weight in model.named_parameters() if weight.requires_grad} & set(missing))
    if lacking or unexpected:
        raise MftcoderError(
            f"{source}: its weights do not fit model.path: missing {lacking[:3]}, unknown {sorted(unexpected)[:3]}. "
            "The base model is not the one that the run started from."
        )


def load_for_use(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model in eval mode, on a GPU if there is one, and its tokenizer.

    Args:
        name: output_dir of a run (its best checkpoint), a checkpoint, a folder that transformers can load, or a hub id.
    """
    folder = Path(name)
    if (folder / "run.json").is_file() or (folder / "checkpoint.json").is_file():
        config, checkpoint = open_run(folder)
        model, settings, chat = load_trained(config, checkpoint), config.model, config.data.chat
    else:
        settings, chat = Model(path=name), TemplateChat()
        stored = load_config(settings).dtype
        dtype = "bfloat16" if stored == torch.bfloat16 and torch.cuda.is_available() else "float32"
        settings = settings.model_copy(update={"dtype": dtype})
        model = load_causal(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), load_tokenizer(settings, chat)
