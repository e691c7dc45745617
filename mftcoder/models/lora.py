"""Low-rank adapters through peft."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mftcoder.config.schema import Lora
from mftcoder.errors import MftcoderError
from mftcoder.models.new_tokens import whole


def add_lora(model: PreTrainedModel, lora: Lora, trained_rows: dict[str, list[int]] | None = None) -> PreTrainedModel:
    """The model (as a PeftModel) with trainable adapters, all else but ``lora.modules_to_save`` frozen.

    ``trained_rows``: names of embeddings, or of the head, to numbers of rows that are trained beside them.
    """
    from peft import LoraConfig, get_peft_model

    _check_names(model, lora)
    rows = {name: numbers for name, numbers in (trained_rows or {}).items() if not _ends_in(name, lora.modules_to_save)}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=_routers(model) or None,
        target_parameters=lora.target_parameters or None,
        modules_to_save=lora.modules_to_save or None,
        trainable_token_indices=rows or None,
        use_rslora=lora.rank_stabilized,
        use_dora=lora.dora,
        init_lora_weights="pissa" if lora.initialization == "pissa" else True,
        # An embedding that is also the head stays both.
        ensure_weight_tying=bool(lora.modules_to_save) and model.config.get_text_config().tie_word_embeddings,
        task_type="CAUSAL_LM",
    )
    try:
        with _rows_from_partitions():
            # One dtype per module, or ZeRO-3 cannot gather it.
            return get_peft_model(model, config, autocast_adapter_dtype=False)
    except (ValueError, re.error) as error:
        raise MftcoderError(f"model.lora.target_modules: {error}") from error


@contextmanager
def _rows_from_partitions() -> Iterator[None]:
    """Have peft read trained rows out of matrices that ZeRO-3 has partitioned; its own way needs CUDA."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    def collect(layer: nn.Module, weight: nn.Parameter, rows: list[int], size: int) -> Tensor:
        with whole([weight]):
            return weight.data[rows].clone()

    theirs, TrainableTokensLayer._collect_token_weights = TrainableTokensLayer._collect_token_weights, collect
    try:
        yield
    finally:
        TrainableTokensLayer._collect_token_weights = theirs


def _check_names(model: PreTrainedModel, lora: Lora) -> None:
    """peft says nothing of names that the model does not have, as long as others are found."""
    for setting, there in (("modules_to_save", model.named_modules()), ("target_parameters", model.named_parameters())):
        names = [name for name, _ in there]
        for wanted in getattr(lora, setting):
            if not any(_ends_in(name, [wanted]) for name in names):
                raise MftcoderError(f'model.lora.{setting}: the model has no "{wanted}"; it has e.g. "{names[-1]}".')


def _routers(model: PreTrainedModel) -> list[str]:
    """Routers that look like linear layers but give more than a product, as those of Phi-3.5-MoE."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).__name__.endswith("Router")
    ]


def _ends_in(name: str, ends: list[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)


@torch.no_grad()
def undo_pissa(trained: PreTrainedModel, before: Mapping[str, Tensor]) -> None:
    """Make the adapter of ``trained`` plain LoRA, of twice the rank, for the base model as it was before PiSSA.

    PiSSA moves s B0 A0 out of the base weights W into the adapter, so s B A on what is left of W is
    s (B A - B0 A0) = s [B, -B0] [A; A0] on W. The base weights in ``trained`` stay as they are.

    Args:
        trained: with the factors A, B.
        before: the same model's factors A0, B0 before training, by their names.
    """
    for name, factor in trained.named_parameters():
        if ".lora_A." in name:
            factor.data = torch.cat([factor, before[name]])
        elif ".lora_B." in name:
            factor.data = torch.cat([factor, -before[name]], dim=1)
    config = trained.peft_config["default"]
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # s stays
    config.init_lora_weights = True
