"""Trimming gives back what was freed between blocks that are held, and changes no gradient."""

import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_llama

from mftcoder.engine import host_memory
from mftcoder.models.adapter import CausalAdapter, TokenNLL, make_batch

MIB = 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held_between_holes() -> list[torch.Tensor]:
    """100 blocks of a MiB, with a hole beside each that glibc keeps."""
    del_first = torch.ones(4 * MIB)
    del del_first  # from now on blocks of this size come from the heap
    blocks = [torch.ones(MIB // 4) for _ in range(200)]
    return blocks[::2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_holes_go_back_before_the_head_and_before_the_embeddings_gradient(monkeypatch):
    monkeypatch.setattr(host_memory, "LARGE_BYTES", 32 * MIB)
    model = TokenNLL(tiny_llama(vocab_size=300_000, tie_word_embeddings=True), CausalAdapter())
    ids = torch.arange(16).reshape(2, 8)
    batch = make_batch(ids, torch.arange(8).expand(2, -1))
    coefficients = torch.full((len(batch.targets),), 0.1)
    model(batch, coefficients)[1].backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    host_memory.trim_at_peaks(model)

    held, before = held_between_holes(), resident()
    _, loss, _ = model(batch, coefficients)
    assert before - resident() > 20 * MIB  # the 37 MiB of the gradient at the head have come since
    more, before = held_between_holes(), resident()
    loss.backward()
    assert before - resident() > 50 * MIB
    assert len(held) == len(more) == 100
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
