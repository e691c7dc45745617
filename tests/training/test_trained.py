"""An adapter alone is used as the base model with the adapter's product of factors added to its weights."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.errors import MftcoderError
from mftcoder.training.trained import infilling_tokens, load_for_use

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


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_adapter_with_rows_for_new_tokens_finds_room_for_them(tmp_path, tied):
    base = tiny_llama(tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>", "<other>"])
    first = len(tokenizer) - 2
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base.config.name_or_path = base.name_or_path = str(tmp_path / "base")
    rows = {"embed_tokens": [first, first + 1]} | ({} if tied else {"lm_head": [first, first + 1]})
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj"], trainable_token_indices=rows))
    for name, parameter in adapted.named_parameters():
        if "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "adapter")
    model, _ = load_for_use(str(tmp_path / "adapter"))
    ids = torch.tensor([[5, first, 7, first + 1]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted.eval()(ids).logits)


def test_an_export_says_which_tokens_it_infills_with(tmp_path):
    assert infilling_tokens(str(tmp_path)) is None
    (tmp_path / "trainer_state.json").write_text(json.dumps({"infilling_tokens": ["<a>", "<b>", "<c>"]}))
    assert infilling_tokens(str(tmp_path)) == ("<a>", "<b>", "<c>")
    for other in ({"infilling_tokens": ["<a>"]}, {"infilling_tokens": None}, {}):
        (tmp_path / "trainer_state.json").write_text(json.dumps(other))
        assert infilling_tokens(str(tmp_path)) is None
