"""An adapter alone is used as the base model with the adapter's product of factors added to its weights."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.errors import MftcoderError
from mftcoder.training.trained import load_for_use

RANK, ALPHA = 4, 6


@pytest.fixture
def adapter(base_model, tmp_path):
    """A folder as peft writes it; both factors of the adapter are far from 0."""
    model = tiny_llama()
    model.config.name_or_path = model.name_or_path = str(base_model)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_alone_gives_the_logits_of_the_base_with_its_factors_added(adapter):
    assert not (adapter / "config.json").exists()
    by_hand = tiny_llama()
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, up in factors.items():
        if "lora_B" in name:
            down = factors[name.replace("lora_B", "lora_A")]
            place = name.removeprefix("base_model.model.").replace(".lora_B.weight", "")
            by_hand.get_submodule(place).weight.data += ALPHA / RANK * up @ down
    model, tokenizer = load_for_use(str(adapter))
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected, plain = by_hand(ids).logits, tiny_llama()(ids).logits
        # Float32, and a product of other factors in another order.
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert (plain - expected).abs().max() > 0.1


def test_a_tokenizer_beside_the_adapter_is_preferred(adapter):
    other = tiny_tokenizer()
    other.add_tokens(["<new>"])
    other.save_pretrained(adapter)
    assert "<new>" in load_for_use(str(adapter))[1].get_vocab()


@pytest.mark.parametrize(
    ("base", "message"),
    [(None, "base_model_name_or_path must name the base model; found null"), ("no/such/model", "no/such/model")],
)
def test_an_adapter_without_its_base_is_refused(adapter, base, message):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises(MftcoderError, match=message):
        load_for_use(str(adapter))


def test_a_damaged_adapter_is_refused(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(MftcoderError, match="the adapter cannot be loaded"):
        load_for_use(str(adapter))
