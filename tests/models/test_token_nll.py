"""Packed rows against the samples alone, and our per-token NLL against the library's own logits."""

import numpy as np
import pytest
import torch
from tiny import random_rows, tiny_llama

from mftcoder.data.loader import collate
from mftcoder.data.shards import Row
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.attention import NAMES
from mftcoder.models.check import check_model

LENGTHS = [[9, 5, 12], [3, 17], [26]]


def alone(rows: list[Row]) -> list[Row]:
    """Every segment as a row of its own."""
    parts = []
    for row in rows:
        ends = np.cumsum(row.segment_lengths)
        for start, end, sample in zip(ends - row.segment_lengths, ends, row.sample_ids, strict=True):
            part = slice(start, end)
            parts.append(Row(row.input_ids[part], row.supervised[part], np.array([end - start]), np.array([sample])))
    return parts


@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_packed_rows_give_the_nll_and_gradients_of_the_samples_alone(attention, training, checkpointing):
    model = tiny_llama(attn_implementation=NAMES.get(attention, attention))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ours = TokenNLL(model, CausalAdapter()).train(training)
    rows = random_rows(0, LENGTHS)

    def nll_and_gradient(batches: list) -> tuple[torch.Tensor, torch.Tensor]:
        ours.zero_grad()
        nll = torch.cat([ours(batch)[0] for batch in batches])
        (nll * torch.linspace(0.5, 1.5, len(nll))).sum().backward()
        return nll.detach(), torch.cat([p.grad.flatten() for p in ours.parameters()])

    packed = nll_and_gradient([collate([(0, row) for row in rows], isolate_samples=True)])
    separate = nll_and_gradient([collate([(0, row)], isolate_samples=True) for row in alone(rows)])
    torch.testing.assert_close(packed[0], separate[0], rtol=2e-5, atol=2e-5)  # float32, other shapes
    assert (packed[1] - separate[1]).norm() / separate[1].norm() < 1e-5


def test_nll_equals_that_of_the_librarys_logits():
    model = tiny_llama(tie_word_embeddings=True).double()
    batch = collate([(0, row) for row in random_rows(1, [[20], [13]])], isolate_samples=True)
    nll, *_ = TokenNLL(model, CausalAdapter())(batch)
    logits = model(input_ids=batch.input_ids, use_cache=False).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits[batch.supervised], batch.targets, reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-10, atol=1e-10)


def test_without_isolation_a_row_is_one_context():
    model = tiny_llama().double()
    (row,) = random_rows(2, [[8, 9]])
    joined = Row(row.input_ids, row.supervised, np.array([17]), np.array([0]))
    ours = TokenNLL(model, CausalAdapter())
    nll = ours(collate([(0, row)], isolate_samples=False))[0]
    torch.testing.assert_close(nll, ours(collate([(0, joined)], isolate_samples=True))[0])
    assert (nll - ours(collate([(0, row)], isolate_samples=True))[0]).abs().max() > 1e-3


@pytest.mark.parametrize("length", [26, 40, 100])
def test_padding_changes_nothing(length):
    ours = TokenNLL(tiny_llama().double(), CausalAdapter())
    rows = [(0, row) for row in random_rows(3, LENGTHS)]
    torch.testing.assert_close(
        ours(collate(rows, isolate_samples=True, length=length))[0],
        ours(collate(rows, isolate_samples=True))[0],
        rtol=1e-10,
        atol=1e-10,
    )


class TestCheckModel:
    def check(self, model, isolate=True):
        ours = TokenNLL(model, CausalAdapter()).eval()
        check_model(ours, lambda b: ours(b)[0], device=torch.device("cpu"), isolate_samples=isolate)

    def test_passes_a_llama(self):
        self.check(tiny_llama())
        self.check(tiny_llama().bfloat16())

    def test_refuses_a_family_that_leaks(self):
        from transformers import BloomConfig, BloomForCausalLM

        torch.manual_seed(0)
        model = BloomForCausalLM(
            BloomConfig(vocab_size=100, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
        )
        with pytest.raises(MftcoderError, match="see each other"):
            self.check(model)
        self.check(model, isolate=False)

    def test_refuses_a_head_that_is_not_linear(self):
        model = tiny_llama()
        model.lm_head.forward = lambda hidden: torch.nn.functional.linear(hidden, model.lm_head.weight) ** 3
        with pytest.raises(MftcoderError, match="differs from its own logits"):
            self.check(model)
