"""The base model in 4 bits: what is counted, what is refused, and a bitsandbytes defect that must stay switched off."""

import copy

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from tiny_families import tiny_family
from transformers import AutoConfig

from mftcoder.config.schema import Lora, Model, Quantization, Training
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import num_parameters
from mftcoder.models.load import load_causal, load_token_nll
from mftcoder.models.quantization import check_unquantized, num_quantized


@pytest.fixture
def settings(base_model):
    return Model(path=str(base_model), dtype="float32", lora=Lora(rank=4, dropout=0.0), quantization=Quantization())


def test_packed_parameters_count_whole(settings):
    plain = load_token_nll(settings.model_copy(update={"quantization": None}), Training(), seed=0)
    quantized = load_token_nll(settings, Training(), seed=0)
    assert num_parameters(quantized) == num_parameters(plain)
    linear = [m for m in plain.modules() if isinstance(m, torch.nn.Linear)]
    frozen = sum(m.weight.numel() for m in linear if not m.weight.requires_grad)
    assert num_quantized(quantized) == frozen - plain.head.weight.numel()


def test_gradients_after_an_evaluation_are_those_of_the_same_weights_in_float32(settings):
    """bitsandbytes repacks weights in a forward pass without gradient, where the CPU has avx512_bf16."""
    model = load_causal(settings)
    oracle = copy.deepcopy(model).dequantize()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        model.eval()(ids)
    found = []
    for each in (model, oracle):
        embedding = each.get_input_embeddings().weight
        embedding.requires_grad_(True)
        each(ids, labels=ids).loss.backward()
        found.append(embedding.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("double", "bits"), [(True, 4.13), (False, 4.5)])
def test_the_documented_bits_per_weight(double, bits):
    layer = bitsandbytes.nn.Linear4bit(1024, 4096, bias=False, quant_type="nf4", compress_statistics=double)
    layer.load_state_dict({"weight": torch.randn(4096, 1024)})
    state = layer.to("cpu").weight.quant_state
    assert dequantize_4bit(layer.weight, state).shape == (4096, 1024)
    scales = [state.absmax, state.state2.absmax] if double else [state.absmax]
    size = sum(tensor.nbytes for tensor in (layer.weight, *scales))
    assert size * 8 / 4096 / 1024 == pytest.approx(bits, abs=0.005)


def test_weights_that_lie_there_quantized_are_refused(base_model):
    config = AutoConfig.from_pretrained(base_model)
    check_unquantized(config, "m")
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(MftcoderError, match=r'model\.path: the weights of "m" are stored quantized \(gptq\)'):
        check_unquantized(config, "m")


def test_a_model_of_which_nothing_would_be_quantized_is_refused(tmp_path):
    tiny_family("falcon").save_pretrained(tmp_path)
    with pytest.raises(MftcoderError, match="quantizes no layer of a FalconForCausalLM"):
        load_causal(Model(path=str(tmp_path), quantization=Quantization()))
