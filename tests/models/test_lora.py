"""Adapters: what they start as, what they train, and what they are without PiSSA."""

import copy

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_llama
from tiny_families import tiny_family

from mftcoder.config.schema import Lora
from mftcoder.errors import MftcoderError
from mftcoder.models.lora import add_lora, undo_pissa

IDS = torch.arange(40)[None]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"initialization": "pissa"}, {"rank_stabilized": True}])
def test_before_training_the_model_is_the_base_model(changes):
    found = logits(add_lora(tiny_llama(), Lora(rank=4, **changes)))
    torch.testing.assert_close(found, logits(tiny_llama()), rtol=1e-4, atol=1e-4)


def test_pissa_begins_as_the_principal_components():
    weight = tiny_llama().model.layers[0].self_attn.q_proj.weight.detach()
    layer = (
        add_lora(tiny_llama(), Lora(rank=4, initialization="pissa")).get_base_model().model.layers[0].self_attn.q_proj
    )
    adapter = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    u, s, vh = torch.linalg.svd(weight.double())
    principal = (u[:, :4] * s[:4]) @ vh[:4]
    torch.testing.assert_close(adapter.double(), principal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.base_layer.weight.double(), weight - principal, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_without_pissa_the_adapter_fits_the_untouched_base_model(rank_stabilized):
    lora = Lora(rank=4, alpha=6, dropout=0.0, initialization="pissa", rank_stabilized=rank_stabilized)
    initial, trained = (add_lora(tiny_llama(), lora) for _ in range(2))
    torch.manual_seed(1)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    expected = logits(trained)
    undo_pissa(trained, dict(initial.named_parameters()))
    config = copy.deepcopy(trained.peft_config["default"])
    plain = get_peft_model(tiny_llama(), config)
    factors = {name: p for name, p in trained.named_parameters() if "lora_" in name}
    plain.load_state_dict(factors, strict=False)
    assert config.r == 8
    torch.testing.assert_close(logits(plain), expected, rtol=1e-3, atol=1e-3)
    assert (expected - logits(tiny_llama())).abs().max() > 1


def test_a_router_that_looks_like_a_linear_layer_gets_no_adapter():
    model = add_lora(tiny_family("phimoe"), Lora(rank=4))
    torch.testing.assert_close(logits(model), logits(tiny_family("phimoe")))
    assert not any("router" in name for name, p in model.named_parameters() if p.requires_grad)


def test_named_modules_train_whole_and_tied_weights_stay_tied():
    model = add_lora(tiny_llama(tie_word_embeddings=True), Lora(rank=4, modules_to_save=["embed_tokens"]))
    base = model.get_base_model()
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert base.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"modules_to_save": ["embed_token"]},
            r'modules_to_save: the model has no "embed_token"; it has e\.g\. "lm_head"',
        ),
        ({"target_parameters": ["nope.weight"], "dropout": 0.0}, r'target_parameters: the model has no "nope\.weight"'),
        ({"target_modules": "x"}, r"model\.lora\.target_modules: Target modules x not found"),
        ({"target_modules": "("}, r"model\.lora\.target_modules: "),
    ],
)
def test_what_the_model_does_not_have_is_refused(changes, message):
    with pytest.raises(MftcoderError, match=message):
        add_lora(tiny_llama(), Lora(rank=4, **changes))
