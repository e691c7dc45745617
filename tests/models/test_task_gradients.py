"""Gradients at the final norm's gain and at the head, task by task, against autograd."""

import pytest
import torch
from tiny import VOCABULARY, random_rows, tiny_llama
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig

from mftcoder.data.batch import Batch
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.task_gradients import check_head_gradients

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def gemma() -> Gemma2ForCausalLM:
    shape = SHAPE | {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
    return Gemma2ForCausalLM(Gemma2Config(**shape, initializer_range=0.3))


def neox() -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, intermediate_size=48, initializer_range=0.3))


def gain_of(model: nn.Module) -> nn.Parameter:
    backbone = model.base_model
    return getattr(backbone, "final_layer_norm" if hasattr(backbone, "final_layer_norm") else "norm").weight


def batch_of(tasks: tuple[int, ...], lengths: list[list[int]], seed: int) -> Batch:
    return collate(list(zip(tasks, random_rows(seed, lengths), strict=True)), isolate_samples=True)


@pytest.mark.parametrize(
    ("make", "shared"),
    [
        (tiny_llama, "final_norm"),
        (gemma, "final_norm"),
        (neox, "final_norm"),
        (tiny_llama, "lm_head"),
        (neox, "lm_head"),
    ],
)
@pytest.mark.parametrize("known_beforehand", [True, False])
def test_the_norm_of_every_tasks_gradient_over_a_step_is_that_of_autograd(make, shared, known_beforehand):
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        gain = gain_of(model)
        gain.add_(torch.randn_like(gain) * 0.3)  # a gain of all ones would hide a forgotten one
    parameter = gain if shared == "final_norm" else model.get_output_embeddings().weight
    batches = [batch_of((0, 2, 0), [[9, 4], [12], [15]], 0), batch_of((2, 2), [[5], [3, 8]], 1)]
    counts = [torch.rand(len(batch.targets)) for batch in batches]
    plain = TokenNLL(model, CausalAdapter())
    expected = []
    for task in range(3):
        losses = [(plain(b)[0] * c * (b.supervised_tasks == task)).sum() for b, c in zip(batches, counts, strict=True)]
        expected.append(torch.autograd.grad(sum(losses), parameter)[0].double().norm())

    ours = TokenNLL(model, CausalAdapter())
    ours.watch_gradients(3, shared)
    for _ in range(2):  # the second step knows nothing of the first
        for batch, its_counts in zip(batches, counts, strict=True):
            nll, loss, _ = ours(batch, its_counts if known_beforehand else None)
            (loss if known_beforehand else (nll * its_counts).sum()).backward()
        found = ours.gradient_watch.take(Group())
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
        assert found[1] == 0
    assert ours.gradient_watch.take(Group()) is None


@pytest.mark.parametrize("shared", ["final_norm", "lm_head"])
def test_passes_without_gradient_leave_nothing(shared):
    ours = TokenNLL(tiny_llama(), CausalAdapter())
    ours.watch_gradients(1, shared)
    with torch.no_grad():
        ours(batch_of((0,), [[9]], 0))
    assert ours.gradient_watch.take(Group()) is None


def test_the_head_of_frozen_weights_is_watched_too():
    """As under LoRA: what does not train still has a gradient."""
    model = tiny_llama().train()
    batch = batch_of((0, 1), [[9], [12]], 0)
    norms = []
    for trains in (True, False):
        model.get_output_embeddings().weight.requires_grad_(trains)
        ours = TokenNLL(model, CausalAdapter())
        ours.watch_gradients(2, "lm_head")
        ours(batch, torch.ones(len(batch.targets)))[1].backward()
        norms.append(ours.gradient_watch.take(Group()))
    torch.testing.assert_close(*norms, rtol=0, atol=0)


def test_a_head_too_large_for_a_gradient_per_task_is_refused():
    config = LlamaConfig(vocab_size=151_936, hidden_size=3584)
    check_head_gradients(config, 1)
    with pytest.raises(MftcoderError, match=r'5 gradients of 151,936 x 3,584 .* 10\.1 GiB; .* "final_norm"'):
        check_head_gradients(config, 5)
