"""NEFTune's noise: its bound and distribution, only in training, the same for a sample wherever it stands."""

import math

import pytest
import torch
from tiny import random_rows, tiny_llama

from mftcoder.config.schema import Model, Training
from mftcoder.data.batch import Batch
from mftcoder.data.loader import collate
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.load import load_token_nll

ALPHA, WIDTH = 5.0, 32  # of the embedding


def packed(lengths: list[list[int]]) -> Batch:
    return collate([(0, row) for row in random_rows(1, lengths)], isolate_samples=True)


@pytest.fixture
def watched():
    """A model with noise, and what its first layer was given, less the embedding, at every call."""
    model, noise = TokenNLL(tiny_llama(), CausalAdapter()), []
    model.disturb_embeddings(ALPHA)
    embedding = model.causal.model.embed_tokens

    def note(layer, args, kwargs):
        noise.append((args[0] - torch.nn.functional.embedding(model.ids, embedding.weight)).detach())

    model.causal.model.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    return model, noise


def run(model, batch, seed=0):
    torch.manual_seed(seed)
    model.ids = batch.input_ids
    return model(batch)[0]


def test_the_noise_is_uniform_within_the_bound_of_each_sample(watched):
    model, noise = watched
    batch = packed([[4, 40], [25, 8, 11]])
    draws = []
    for seed in range(40):
        run(model.train(), batch, seed)
        draws.append(noise[-1])
    drawn = torch.stack(draws)
    for row, lengths in enumerate([[4, 40], [25, 8, 11]]):
        for part, length in zip(drawn[:, row].split(lengths, dim=1), lengths, strict=True):
            bound = ALPHA / math.sqrt(length * WIDTH)
            assert 0.99 * bound < part.abs().max() <= bound * (1 + 1e-5)
            assert part.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert part.mean().abs() < 0.05 * bound


def test_none_in_evaluation_and_the_same_for_the_same_seed(watched):
    model, noise = watched
    batch = packed([[12, 20]])
    first, again, other = run(model.train(), batch), run(model, batch), run(model, batch, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    quiet = run(model.eval(), batch)
    assert noise[-1].abs().max() == 0
    assert torch.equal(quiet, TokenNLL(tiny_llama(), CausalAdapter()).eval()(batch)[0])


def test_the_setting_reaches_the_model(base_model):
    settings = Model(path=str(base_model), dtype="float32")
    assert load_token_nll(settings, Training(), seed=0).embedding_noise is None
    batch = packed([[12, 20]])
    model = load_token_nll(settings, Training(neftune_noise_alpha=ALPHA), seed=0).train()
    torch.manual_seed(0)
    assert not torch.equal(model(batch)[0], model(batch)[0])


@pytest.mark.long
def test_compiled_layers_give_the_same_losses_and_gradients(base_model):
    settings, found = Model(path=str(base_model), dtype="float32"), []
    batch = packed([[12, 20], [30]])
    for compiled in (False, True):
        training = Training(torch_compile=compiled, activation_checkpointing=True)
        model = load_token_nll(settings, training, seed=0).train()
        assert (model.causal.model.layers[0]._compiled_call_impl is not None) == compiled
        nll, *_ = model(batch)
        nll.sum().backward()
        found.append((nll.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
