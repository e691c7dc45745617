"""When a loss counts as a spike, and that the samples behind it are found."""

import itertools
import json

import numpy as np
import pytest
import torch
from tiny import random_rows, tiny_llama

from mftcoder.config.schema import Training
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.losses.weighting import TaskLosses
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.attention import set_attention
from mftcoder.training.spikes import FEWEST, NUM_SAMPLES, STEPS_BETWEEN_WARNINGS, SpikeWatch, worst_samples


def losses(*values: float | None) -> TaskLosses:
    return TaskLosses.of(
        np.array([0.0 if value is None else value for value in values]),
        np.array([value is not None for value in values]),
    )


def test_a_jump_of_one_task_is_told_with_its_usual_level():
    watch, draw = SpikeWatch(2), np.random.default_rng(0)
    for step in range(100):
        assert watch.observe(step, losses(2 + 0.1 * draw.normal(), 5 + 0.1 * draw.normal())) == []
    (spike,) = watch.observe(100, losses(2.05, 9.0))
    assert (spike.task, spike.loss) == (1, 9.0)
    assert spike.usual == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", ["normal", "laplace", "lognormal"])
def test_neither_noise_nor_a_falling_loss_is_a_spike(seed, noise):
    draw, watch = np.random.default_rng(seed), SpikeWatch(1)
    for step in range(2000):
        shape = {"normal": draw.normal(), "laplace": draw.laplace() / 2, "lognormal": draw.lognormal(0, 0.5) - 1}[noise]
        assert watch.observe(step, losses(1 + 6 * np.exp(-step / 50) + 0.03 * shape)) == []


def test_a_loss_that_falls_does_not_hide_a_jump():
    watch, draw = SpikeWatch(1), np.random.default_rng(0)
    for step in range(60):
        assert watch.observe(step, losses(6 - 0.08 * step + 0.1 * draw.normal())) == []
    (spike,) = watch.observe(60, losses(3.0))  # below what it was thirty steps before
    assert spike.usual == pytest.approx(6 - 0.08 * 60, abs=0.2)


def test_too_few_steps_absence_and_what_is_not_finite_tell_nothing():
    watch = SpikeWatch(2)
    for step in range(FEWEST - 1):
        watch.observe(step, losses(1.0, None))
    assert watch.observe(50, losses(100.0, 100.0)) == []
    assert watch.observe(51, losses(float("nan"), float("inf"))) == []


def test_a_loss_that_stays_high_is_told_rarely_and_then_becomes_usual():
    watch, told = SpikeWatch(1), []
    for step in range(400):
        told += [step] * len(watch.observe(step, losses(1.0 if step < 100 else 3.0)))
    assert told[0] == 100
    assert all(later - earlier >= STEPS_BETWEEN_WARNINGS for earlier, later in itertools.pairwise(told))
    assert told[-1] < 200


def test_state_survives_json():
    watch, draw = SpikeWatch(1), np.random.default_rng(0)
    for step in range(70):
        watch.observe(step, losses(draw.normal() + 9))
    assert watch.observe(70, losses(99.0)) != []
    again = SpikeWatch(1)
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    for step in range(71, 200):
        loss = losses(99.0 if step < 100 else draw.normal() + 9)
        spikes = again.observe(step, loss)
        assert spikes == watch.observe(step, loss)
        assert bool(spikes) == (step == 70 + STEPS_BETWEEN_WARNINGS)
        assert again.state_dict() == watch.state_dict()


def test_the_worst_samples_are_those_of_the_highest_mean_nll_computed_one_by_one():
    causal = tiny_llama()
    engine = LocalEngine(TokenNLL(causal, CausalAdapter()), Training())
    rows = random_rows(0, [[8, 9, 7], [10, 6], [5, 5, 5]])
    batches = [
        collate([(0, rows[0]), (1, rows[1])], isolate_samples=True),
        collate([(0, rows[2])], isolate_samples=True),
    ]
    expected = []
    for row in (rows[0], rows[2]):
        ends = np.cumsum(row.segment_lengths)
        for key, end, length in zip(row.sample_ids, ends, row.segment_lengths, strict=True):
            part = slice(end - length, end)
            if not row.supervised[part].any():
                continue
            ids = torch.tensor(row.input_ids[part].astype(np.int64))[None]
            logits = causal(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            nll = -logits[torch.arange(length - 1), ids[0, 1:]][torch.tensor(row.supervised[part][1:])]
            expected.append((nll.mean().item(), int(key)))
    wanted = [key for _, key in sorted(expected, reverse=True)][:NUM_SAMPLES]
    found = worst_samples(engine, batches, [0], Group())
    assert found == {0: wanted}
    assert engine.model.training


def test_a_sample_whose_nll_is_not_finite_is_worse_than_any_other():
    causal = tiny_llama()
    set_attention(causal, "varlen")  # under a mask 0 times NaN would reach the others
    engine = LocalEngine(TokenNLL(causal, CausalAdapter()), Training())
    (row,) = random_rows(0, [[8, 9, 7]])
    spoilt = int(row.input_ids[8 + 3])
    row.input_ids[[3, 8 + 9 + 3]] = (spoilt + 1) % 50  # only the second sample has that token
    row.input_ids[row.input_ids == spoilt] = (spoilt + 2) % 50
    row.input_ids[8 + 3] = spoilt
    row.supervised[:] = True
    row.supervised[[0, 8, 8 + 9]] = False
    with torch.no_grad():
        causal.get_input_embeddings().weight[spoilt] = float("nan")
    found = worst_samples(engine, [collate([(0, row)], isolate_samples=True)], [0], Group())
    assert found[0][0] == int(row.sample_ids[1])
    assert len(found[0]) == 3
