"""The frozen base model in 4 bits (QLoRA; Dettmers et al., NeurIPS 2023), through bitsandbytes."""

import logging

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig

from mftcoder.config.schema import Quantization
from mftcoder.errors import MftcoderError

# It asks for a kernel of the CPU forward pass that we switch off below.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def load_settings(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers quantizes while it loads; ``dtype`` is that of the arithmetic."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def prepare_quantized(model: nn.Module) -> None:
    """Make the quantized layers of ``model`` fit for training and for checkpoints; MftcoderError if there are none."""
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:  # as those of Falcon, which are of a class of their own
        raise MftcoderError(
            f"model.quantization: transformers quantizes no layer of a {type(model).__name__}. Delete it."
        )
    for layer in layers:
        # Where the CPU has avx512_bf16, a forward pass without gradient would repack the weight in place, and
        # every gradient and dequantization after it would be wrong.
        layer.support_avx512bf16_for_cpu = False
        # The weights are frozen and come from the base model; so do their scales.
        layer.register_state_dict_post_hook(_without_scales)


def _without_scales(layer: nn.Module, state: dict, prefix: str, _: dict) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}weight.")]:
        del state[name]


def num_quantized(model: nn.Module) -> int:
    """Parameters of ``model`` that are held in 4 bits."""
    return sum(whole_size(p) for p in model.parameters() if hasattr(p, "quant_state"))


def whole_size(parameter: nn.Parameter) -> int:
    """Number of elements, also of a parameter that is packed in 4 bits or that ZeRO-3 has partitioned."""
    quant_state = getattr(parameter, "quant_state", None)
    if quant_state is not None:
        return quant_state.shape.numel()
    return getattr(parameter, "ds_numel", parameter.numel())


def check_unquantized(config: PretrainedConfig, path: str) -> None:
    """MftcoderError if the weights of the model to train lie there quantized already."""
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
        raise MftcoderError(
            f'model.path: the weights of "{path}" are stored quantized ({method}), and cannot be trained. '
            "Name the model that they were made from; model.quantization quantizes it while loading."
        )
