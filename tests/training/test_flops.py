"""The arithmetic of training, against what torch counts while it is done."""

import dataclasses

import pytest
import torch
from tiny import random_rows, tiny_llama
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from mftcoder.config.schema import Lora
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.lora import add_lora
from mftcoder.training.flops import Hardware, peak_tflops, training_flops
from mftcoder.training.step import _count_tokens

BATCH = collate([(0, row) for row in random_rows(3, [[40, 24], [64]])], isolate_samples=True)


def counted(model: TokenNLL) -> int:
    """What torch counts in a plain forward and backward pass. Eager attention multiplies whole squares."""
    with FlopCounterMode(display=False) as counter:
        hidden, _ = model.adapter.run_backbone(model.causal, BATCH, with_routers=False)
        logits = model.causal.lm_head(hidden.flatten(0, 1)[BATCH.supervised])
        cross_entropy(logits, BATCH.targets).backward()
    return counter.get_total_flops()


def formula(model: TokenNLL) -> float:
    rows, width = BATCH.input_ids.shape
    return training_flops(model).of(rows * width, len(BATCH.targets), rows * width**2)


def eager_llama(**changes):
    model = tiny_llama(**changes)
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_training_takes_the_operations_that_torch_counts(tied):
    model = TokenNLL(eager_llama(tie_word_embeddings=tied), CausalAdapter())
    assert counted(model) == formula(model)


def test_frozen_matrices_take_no_gradient_of_their_own():
    causal = eager_llama()
    model = TokenNLL(add_lora(causal, Lora(rank=4, dropout=0.0)), CausalAdapter())
    # Below the first layer's projections nothing is trained, so torch leaves out one product of each.
    first = causal.model.layers[0].self_attn
    inputs = sum(
        projection.base_layer.weight.numel() + projection.lora_A["default"].weight.numel()
        for projection in (first.q_proj, first.k_proj, first.v_proj)
    )
    assert counted(model) == formula(model) - 2 * inputs * BATCH.input_ids.numel()


def test_of_a_mixture_only_the_experts_count_that_a_token_goes_through():
    from transformers import MixtralConfig, MixtralForCausalLM

    def flops(number: int, chosen: int) -> float:
        config = MixtralConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=number,
            num_experts_per_tok=chosen,
        )
        return training_flops(TokenNLL(MixtralForCausalLM(config), CausalAdapter())).per_token

    router = 6 * 2 * 16  # of every expert
    expert = 6 * 2 * 3 * 16 * 24
    assert flops(8, 2) - flops(4, 2) == 4 * router
    assert flops(8, 3) - flops(8, 2) == pytest.approx(expert, rel=1e-12)


@pytest.mark.parametrize(("isolate", "attending"), [(True, [5, 3, 4]), (False, [8, 4])])
def test_pairs_are_those_that_causal_attention_sees(isolate, attending):
    rows = [(0, row) for row in random_rows(3, [[5, 3], [4]])]
    seen = sum(int(torch.ones(n, n).tril().sum()) for n in attending)
    assert _count_tokens([collate(rows, isolate_samples=isolate)])[2] == seen


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA A40", 149.7),
        ("Tesla T4", None),
    ],
)
def test_peak_of_a_gpu_by_its_name(name, peak):
    assert peak_tflops(name) == peak


def test_utilisation_is_the_share_of_all_ranks():
    model = TokenNLL(tiny_llama(), CausalAdapter())
    hardware = Hardware.of(Group(size=4), model, 2.0)
    done = training_flops(model).of(1000, 300, 7000)
    assert hardware.utilisation(1000, 300, 7000, seconds=0.5) == pytest.approx(done / 0.5 / 8e12)
    assert dataclasses.replace(hardware, peak_tflops=None).utilisation(1000, 300, 7000, 0.5) is None
    assert Hardware.of(Group(), model, None).peak_tflops is None  # a CPU


def test_memory_grows_by_what_is_held():
    hardware = Hardware.of(Group(), TokenNLL(tiny_llama(), CausalAdapter()), None)
    before = hardware.memory_gib()
    held = torch.ones(2**26)  # 256 MiB
    assert hardware.memory_gib() - before == pytest.approx(held.nbytes / 2**30, abs=0.02)  # of the allocator's own
