"""Gradients at the final norm's gain, task by task, against autograd."""

import pytest
import torch
from tiny import VOCABULARY, random_rows, tiny_llama
from transformers import Gemma2Config, Gemma2ForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from mftcoder.data.loader import collate
from mftcoder.models.adapter import CausalAdapter, TokenNLL

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def gemma() -> Gemma2ForCausalLM:
    shape = SHAPE | {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
    return Gemma2ForCausalLM(Gemma2Config(**shape, initializer_range=0.3))


def neox() -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, intermediate_size=48, initializer_range=0.3))


@pytest.mark.parametrize(("make", "norm"), [(tiny_llama, "norm"), (gemma, "norm"), (neox, "final_layer_norm")])
@pytest.mark.parametrize("known_beforehand", [True, False])
def test_every_tasks_gradient_at_the_gain_is_that_of_autograd(make, norm, known_beforehand):
    torch.manual_seed(0)
    model = make().train()
    with torch.no_grad():
        gain = getattr(model.base_model, norm).weight
        gain.add_(torch.randn_like(gain) * 0.3)  # a gain of all ones would hide a forgotten one
    ours = TokenNLL(model, CausalAdapter())
    ours.watch_gain(3)
    rows = [(task, row) for task, row in zip((0, 2, 0), random_rows(0, [[9, 4], [12], [15]]), strict=True)]
    batch = collate(rows, isolate_samples=True)
    counts = torch.rand(len(batch.targets))
    expected = torch.zeros(3, 32)
    for task in (0, 2):
        only = counts * (batch.supervised_tasks == task)
        expected[task] = torch.autograd.grad((ours(batch)[0] * only).sum(), gain)[0]
    ours.gain_watch.take()

    nll, loss, _ = ours(batch, counts if known_beforehand else None)
    (loss if known_beforehand else (nll * counts).sum()).backward()
    found = ours.gain_watch.take()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not found[1].any()
    assert ours.gain_watch.take() is None


def test_passes_without_gradient_leave_nothing():
    ours = TokenNLL(tiny_llama(), CausalAdapter())
    ours.watch_gain(1)
    with torch.no_grad():
        ours(collate([(0, random_rows(0, [[9]])[0])], isolate_samples=True))
    assert ours.gain_watch.take() is None
