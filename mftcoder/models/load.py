"""Loading a base model and preparing it for training: precision, attention, adapters, activation checkpointing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

from mftcoder.config.schema import Model, Training
from mftcoder.data.chat import new_token_pieces
from mftcoder.errors import MftcoderError
from mftcoder.losses.chunked_nll import positions_per_chunk
from mftcoder.models.adapter import TokenNLL, layers_of
from mftcoder.models.attention import WITHOUT_MASK, likely, set_attention, set_general_attention
from mftcoder.models.families import adapter_of
from mftcoder.models.lora import add_lora
from mftcoder.models.model_config import TEXT_PART, is_text_part, load_config
from mftcoder.models.new_tokens import embed_new_tokens, trained_rows
from mftcoder.models.quantization import load_settings, prepare_quantized
from mftcoder.models.sample_rope import choose_by_sample

_WITHOUT_MASK = "mftcoder_without_mask"


def load_causal(settings: Model) -> PreTrainedModel:
    """The base model in its training precision, from safetensors only; quantized if the settings say so.

    Its attention is fit for any use, generation included. It has embeddings of ``settings.new_tokens``.
    """
    config, pieces = load_config(settings), new_token_pieces(settings) if settings.new_tokens else {}
    dtype, quantization = getattr(torch, settings.dtype), settings.quantization
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    part = is_text_part(settings)
    try:
        with _quietly() if part else nullcontext():  # of the weights of the other parts
            model, found = AutoModelForCausalLM.from_pretrained(
                settings.path,
                config=config,
                revision=settings.revision,
                trust_remote_code=settings.trust_remote_code,
                dtype=dtype,
                quantization_config=load_settings(quantization, dtype) if quantization else None,
                use_safetensors=True,
                output_loading_info=True,
                key_mapping=TEXT_PART if part else None,
            )
    except (OSError, ValueError, ImportError) as error:
        raise MftcoderError(f'model.path: cannot load "{settings.path}": {error}') from error
    if missing := sorted(found["missing_keys"]):  # they would be random
        raise MftcoderError(
            f'model.path: the files of "{settings.path}" lack {len(missing)} of the weights of a '
            f"{type(model).__name__}, e.g. {missing[0]}. Download the model anew, or name another."
        )
    if part:  # the library would give the weights their old names back when it saves them
        model._weight_conversions = [
            kept
            for kept in getattr(model, "_weight_conversions", None) or []
            if not {*kept.source_patterns} & {*TEXT_PART}
        ]
    model.config.use_cache = False
    set_general_attention(model)
    if quantization:
        prepare_quantized(model)
    if pieces:
        embed_new_tokens(model, pieces)
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_token_nll(settings: Model, training: Training, *, seed: int) -> TokenNLL:
    """The model to train. New weights (adapters) depend on ``seed`` alone, so all ranks get the same."""
    causal = load_causal(settings)
    masked = adapter_of(causal.config).isolation == "block_mask"
    choice = set_attention(causal, settings.attention, masked=masked)
    model = _for_training(causal, settings, training, seed)
    model.attention = choice
    return model


def meta_token_nll(settings: Model, training: Training, *, gpu: bool) -> TokenNLL:
    """The model to train by its shapes alone, on the meta device, and not quantized. Reads no weights.

    Its attention and its head work as they would on a GPU, or on a CPU.
    """
    config = load_config(settings)
    if settings.lora:  # other ways to begin need the weights
        settings = settings.model_copy(update={"lora": settings.lora.model_copy(update={"initialization": "zero"})})
    AttentionInterface.register(_WITHOUT_MASK, _attention_without_mask)
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
        )
        causal.config.use_cache = False
        attention = likely(causal, settings.attention, gpu=gpu)
        causal.set_attn_implementation(_WITHOUT_MASK if attention in WITHOUT_MASK else attention)
        if settings.new_tokens:
            embed_new_tokens(causal, new_token_pieces(settings))
        model = _for_training(causal, settings, training.model_copy(update={"torch_compile": False}), seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:  # on the meta device peft leaves its adapters in float32
            parameter.data = parameter.data.to(getattr(torch, settings.dtype))
    model.head.chunk_size = positions_per_chunk(len(model.head.weight), on_gpu=gpu)
    return model


def _attention_without_mask(module: nn.Module, *states: torch.Tensor, **options: Any) -> Any:
    """What backends that need no mask keep, where they cannot run."""
    query, key, value, *_ = states
    return sdpa_attention_forward(module, query, key, value, None, **options | {"is_causal": True})


def _for_training(causal: PreTrainedModel, settings: Model, training: Training, seed: int) -> TokenNLL:
    if training.activation_checkpointing:
        # Older releases of transformers 5 know the second name only.
        enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    torch.manual_seed(seed)
    model = causal if settings.lora is None else add_adapters(causal, settings)
    token_nll = TokenNLL(model, adapter_of(causal.config), settings.router_loss_coefficient)
    choose_by_sample(token_nll.adapter.backbone(causal))
    if training.neftune_noise_alpha is not None:
        token_nll.disturb_embeddings(training.neftune_noise_alpha)
    if training.torch_compile:
        compile_layers(token_nll.adapter.backbone(causal))
    return token_nll


def add_adapters(causal: PreTrainedModel, settings: Model) -> PreTrainedModel:
    """``causal`` as ``load_causal`` gave it, with the trainable adapters that ``settings.lora`` asks for."""
    lora = settings.lora
    assert lora is not None
    if lora.target_parameters == "experts":
        if not (experts := adapter_of(causal.config).expert_parameters(causal)):
            raise MftcoderError(f"model.lora.target_parameters: {type(causal).__name__} has no experts. Delete it.")
        lora = lora.model_copy(update={"target_parameters": experts})
    rows = trained_rows(causal, new_token_pieces(settings)) if settings.new_tokens else {}
    return add_lora(causal, lora, trained_rows=rows)


def compile_layers(backbone: nn.Module) -> None:
    """Compile every transformer layer in place: one compilation serves all that are alike."""
    layers = layers_of(backbone)
    if not layers:
        raise MftcoderError(
            f"training.torch_compile: found no stack of layers in {type(backbone).__name__}. Set it to false."
        )
    for layer in layers:
        layer.compile()
