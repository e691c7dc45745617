"""What fake tensors foretell is what real ones take."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from mftcoder.config.schema import Lora
from mftcoder.models.adapter import CausalAdapter, TokenNLL, make_batch
from mftcoder.models.footprint import UnforeseeableError, footprint
from mftcoder.models.load import add_lora
from mftcoder.models.tensor_bytes import TensorBytes

LLAMA = LlamaConfig(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    use_cache=False,
)
MOE = Qwen3MoeConfig(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=4,
    num_experts_per_tok=2,
    use_cache=False,
)


def build(config, device: str, *, checkpointing: bool, lora: bool, dtype: torch.dtype = torch.bfloat16) -> TokenNLL:
    with torch.device(device):
        causal = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
        if checkpointing:
            causal.activation_checkpointing_enable({"use_reentrant": False})
        model = add_lora(causal, Lora(rank=4, dropout=0.0)) if lora else causal
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)  # on the meta device peft makes adapters in float32
    return TokenNLL(model, CausalAdapter())


def counted(model: TokenNLL) -> int:
    """The bytes of a real pass, beside the weights."""
    with TensorBytes() as counter:
        counter.add([*model.parameters(), *model.buffers()], "weights")
        batch = make_batch(torch.zeros(2, 128, dtype=torch.int64), torch.arange(64).repeat(2, 2))  # two samples a row
        _, loss, routers = model.train()(batch, torch.zeros(len(batch.targets)))
        (loss + routers).backward()
        return counter.peak - counter.alive["weights"]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("config", "lora"), [(LLAMA, False), (LLAMA, True), (MOE, False)])
def test_it_is_what_a_real_pass_takes(config, lora, checkpointing):
    options = {"checkpointing": checkpointing, "lora": lora}
    foretold = footprint(build(config, "meta", **options), num_rows=2, length=128, gradients_stay=True)
    # Fake operations differ from real ones in a few temporaries.
    assert foretold.total == pytest.approx(counted(build(config, "cpu", **options)), rel=0.05)


def test_gradients_that_are_handed_on_are_not_counted():
    stay, handed_on = (
        footprint(
            build(LLAMA, "meta", checkpointing=True, lora=False), num_rows=1, length=8, gradients_stay=gradients_stay
        )
        for gradients_stay in (True, False)
    )
    assert stay.gradients > 0
    assert handed_on.gradients == 0


def test_storages_are_counted_once_and_until_they_are_freed():
    with TensorBytes() as counter:
        a = torch.zeros(10, dtype=torch.float32)
        b = a[2:].view(2, 4)
        b += 1
        torch.empty(1000, device="meta")
        assert (counter.alive.total(), counter.peak) == (40, 40)
        c = a * 2
        assert counter.alive.total() == 80
        del a, b
        assert (counter.alive.total(), counter.peak) == (40, 80)
        with counter.of_kind("more"):
            d = c.double()
    assert counter.alive == {"other": 40, "more": 80}
    assert d.untyped_storage().nbytes() == 80


def test_tied_weights_stay_one():
    tied = copy.deepcopy(LLAMA)
    tied.tie_word_embeddings = True
    model = build(tied, "meta", checkpointing=False, lora=False)
    footprint(model, num_rows=1, length=8, gradients_stay=True)
    assert model.head.weight is model.causal.get_input_embeddings().weight


def test_what_cannot_be_foretold_says_so():
    model = build(MOE, "meta", checkpointing=False, lora=False, dtype=torch.float32)  # its fake experts want bfloat16
    with pytest.raises(UnforeseeableError, match="BF16"):
        footprint(model, num_rows=1, length=8, gradients_stay=True)


def test_what_the_head_makes_counts_as_logits():
    wide = copy.deepcopy(LLAMA)
    wide.vocab_size = 20_000
    found = footprint(build(wide, "meta", checkpointing=True, lora=False), num_rows=2, length=128, gradients_stay=False)
    assert found.logits > 2 * 127 * 20_000 * 4  # float32
    assert found.activations < found.logits / 10
