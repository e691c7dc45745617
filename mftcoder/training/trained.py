"""Models to use: the trained model of a run, taken out of its checkpoint, or any folder or hub id of transformers."""

from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.config.load import load, read_json
from mftcoder.config.problems import show
from mftcoder.config.schema import Config, Model, TemplateChat
from mftcoder.data.chat import load_tokenizer
from mftcoder.distributed import Group
from mftcoder.engine.stored_state import WEIGHT, StoredState
from mftcoder.errors import MftcoderError
from mftcoder.models.load import add_adapters, load_causal
from mftcoder.models.model_config import load_config
from mftcoder.training.checkpoint import Checkpoint, find_checkpoint, verify_files

STATE = "trainer_state.json"  # of an exported folder


def open_run(folder: Path, which: str = "best") -> tuple[Config, Checkpoint]:
    """The config and a checkpoint of the run in ``folder``; ``which`` is "best", "last" or "step-N".

    ``folder`` may also be a checkpoint itself; then ``which`` does not count.
    """
    if _is_checkpoint(folder):
        folder, which = folder.parent.parent, folder.name
    if not (folder / "run.json").is_file() or not (folder / "config.json").is_file():
        raise MftcoderError(f"{folder}: is no run: found no run.json. Give the output_dir of a training config.")
    config, found = load(folder / "config.json"), find_checkpoint(folder, which)
    # A branch on the hub may have moved since; the run started from this commit.
    commit = read_json(folder / "run.json").get("model", {}).get("commit")
    if commit:
        config = config.model_copy(update={"model": config.model.model_copy(update={"revision": commit})})
    return config, found


def _is_checkpoint(folder: Path) -> bool:
    """Whether it is one, or by its place stands for one: step-60 for step-000060."""
    within_run = folder.parent.name == "checkpoints" and (folder.parent.parent / "run.json").is_file()
    return within_run or (folder / "checkpoint.json").is_file()


def find_start(config: Config) -> Checkpoint | None:
    """The checkpoint of another run whose weights the run begins with, if it is to."""
    if config.resume is None:
        return None
    return open_run(Path(config.resume.run), config.resume.checkpoint)[1]


def load_trained(config: Config, checkpoint: Checkpoint, *, dequantize: bool = False) -> PreTrainedModel:
    """The base model with the checkpoint's weights: a PeftModel if adapters were trained.

    Args:
        config: of the run.
        checkpoint: of the run.
        dequantize: give a base model that was quantized for training as the same values in ``model.dtype``.
    """
    from mftcoder.engine.deepspeed import stored_state

    verify_files(checkpoint, Group())
    causal = load_causal(config.model)
    if config.model.quantization and dequantize:
        causal = causal.dequantize()
    model = causal if config.model.lora is None else add_adapters(causal, config.model)
    put_weights(model, stored_state(checkpoint.path), checkpoint.path)
    return model


@torch.no_grad()
def put_weights(model: nn.Module, stored: StoredState, source: Path) -> None:
    """Give every trainable weight of ``model`` the values it has in ``stored``, which came from ``source``.

    Takes one at a time, so there is no second copy of them. MftcoderError if one has no counterpart, either way, or is
    of another size.
    """
    prefix = "model."  # of TokenNLL
    trained = {f"{prefix}{name}": weight for name, weight in model.named_parameters() if weight.requires_grad}
    different = sorted(trained.keys() ^ stored.names)
    for name, weight in trained.items() if not different else ():
        values = stored.of(name, WEIGHT)[WEIGHT]
        if values.numel() != weight.numel():
            different.append(name)
        else:
            weight.copy_(values.view_as(weight))
    if different:
        names = ", ".join(name.removeprefix(prefix) for name in different[:3])
        raise MftcoderError(
            f"{source}: its weights do not fit model.path: {names} … are in one only, or of another size. "
            "The base model is not the one that the run started from."
        )


def load_for_use(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model in eval mode, on a GPU if there is one, and its tokenizer.

    Args:
        name: output_dir of a run (its best checkpoint), a checkpoint, a folder that transformers can load or that holds
            a LoRA adapter of peft, or a hub id.
    """
    folder = Path(name)
    if (folder / "run.json").is_file() or _is_checkpoint(folder):
        config, checkpoint = open_run(folder)
        model, settings, chat = load_trained(config, checkpoint), config.model, config.data.chat
    else:
        adapter = (folder / "adapter_config.json").is_file()
        settings, chat = _base_of(folder) if adapter else Model(path=name), TemplateChat()
        stored = load_config(settings).dtype
        dtype = "bfloat16" if stored == torch.bfloat16 and torch.cuda.is_available() else "float32"
        model = load_causal(settings.model_copy(update={"dtype": dtype}))
        if adapter and (folder / "tokenizer.json").is_file():
            settings = Model(path=name)
            _make_room(model, len(load_tokenizer(settings, chat)))
        if adapter:
            model = _with_adapter(model, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), load_tokenizer(settings, chat)


def weights_fingerprint(name: str) -> str:
    """A short text that is another one when what ``load_for_use`` would load has changed.

    Of files, their sizes and times of change count; of a model on the hub, its commit.
    """
    folder = Path(name)
    if (folder / "run.json").is_file() or _is_checkpoint(folder):
        folder = open_run(folder)[1].path
    if not folder.is_dir():
        return str(getattr(load_config(Model(path=name)), "_commit_hash", None))
    stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return blake2b(found.encode("utf-8", "replace"), digest_size=16).hexdigest()


def infilling_tokens(name: str) -> tuple[str, ...] | None:
    """What stands before prefix, suffix and middle, where a run's config, or an export of it, names tokens of its own.

    Args:
        name: as ``load_for_use`` takes it.
    """
    folder = Path(name)
    if (folder / "run.json").is_file() or _is_checkpoint(folder):
        return own_infilling_tokens(open_run(folder)[0])
    state = read_json(folder / STATE) if (folder / STATE).is_file() else {}
    own = state.get("infilling_tokens") if isinstance(state, dict) else None
    return tuple(own) if isinstance(own, list) and len(own) == 3 and all(isinstance(t, str) for t in own) else None


def own_infilling_tokens(config: Config) -> tuple[str, ...] | None:
    """The sentinels of the first task that names any."""
    named = (task.fim.sentinels for task in config.data.tasks if task.fim and task.fim.sentinels)
    return next((tuple(tokens) for tokens in named), None)


def _make_room(model: PreTrainedModel, num_tokens: int) -> None:
    """Rows for tokens that the base model does not know, as peft's own loading adds them; the adapter fills them."""
    if num_tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)


def _base_of(adapter: Path) -> Model:
    """The base model that the adapter in a folder of peft belongs to."""
    content = read_json(adapter / "adapter_config.json")
    base = content.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise MftcoderError(
            f"{adapter / 'adapter_config.json'}: base_model_name_or_path must name the base model; found {show(base)}."
        )
    return Model(path=base, revision=content.get("revision"))


def _with_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, SafetensorError) as error:
        raise MftcoderError(f"{folder}: the adapter cannot be loaded: {error}") from error
