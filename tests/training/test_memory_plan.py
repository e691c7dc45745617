"""The arithmetic of the memory plan against values by hand: 1,000 trained bfloat16 parameters, large activations."""

from dataclasses import replace

import pytest

from mftcoder.models.footprint import Footprint
from mftcoder.training.memory import Sizes, combine

SIZES = Sizes(parameters=1000, trainable=1000, weight_bytes=2000, unpacked=0, itemsize=2)
PASS = Footprint(gradients=0, logits=100, activations=100_000)


def parts(stage: int, ranks: int, *, accumulates: bool = True, **zero) -> dict[str, int]:
    settings = {"zero_optimization": {"stage": stage, "reduce_bucket_size": 10} | zero}
    return combine(SIZES, PASS, settings, ranks, accumulates=accumulates).parts


@pytest.mark.parametrize(
    ("stage", "ranks", "accumulates", "weights", "gradients", "optimizer", "buffers"),
    [
        (0, 4, True, 2000, 2000, 12_000, 0),  # whole on every rank
        (1, 4, True, 2000, 2000, 3000, 20),
        (2, 4, True, 2000, 500, 3000, 20),  # between micro-batches only the rank's own gradients
        (2, 4, False, 2000, 0, 3000, 20),
        (3, 4, False, 500, 500, 3000, 2000 + 20),  # its gradients stay, and all weights may be gathered at once
    ],
)
def test_what_each_stage_holds(stage, ranks, accumulates, weights, gradients, optimizer, buffers):
    found = parts(stage, ranks, accumulates=accumulates)
    assert (found["weights"], found["gradients"], found["optimizer"], found["buffers"]) == (
        (weights, gradients, optimizer, buffers)
    )
    assert (found["activations"], found["logits"]) == (100_000, 100)


@pytest.mark.parametrize(
    ("stage", "itemsize", "sub_group_size", "gradients"),
    [
        (0, 2, 1000, 2000 + 4000),  # as they are, and in float32
        (0, 4, 1000, 4000),
        (2, 2, 1000, 500 + 500 + 1000),  # of 250 of them: also as one tensor
        (2, 4, 1000, 1000 + 1000),
        (3, 2, 1000, 500 + 500 + 1000),
        (3, 2, 100, 500 + 200 + 400),  # a part at a time
        (3, 4, 100, 1000 + 400),
    ],
)
def test_gradients_in_the_update(stage, itemsize, sub_group_size, gradients):
    sizes = replace(SIZES, itemsize=itemsize, weight_bytes=1000 * itemsize)
    zero = {"stage": stage, "reduce_bucket_size": 10, "sub_group_size": sub_group_size, "stage3_max_live_parameters": 0}
    settings = {"zero_optimization": zero}
    found = combine(sizes, Footprint(0, 0, 0), settings, 4, accumulates=False)
    assert found.moment == "optimizer's update"
    assert found.parts["gradients"] == gradients


def test_two_buckets_where_communication_overlaps():
    assert parts(2, 4, overlap_comm=True)["buffers"] == 2 * parts(2, 4)["buffers"]


def test_what_is_offloaded_lies_with_the_host():
    cpu = {"device": "cpu"}
    settings = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 10, "offload_optimizer": cpu}}
    found = combine(SIZES, PASS, settings, 4, accumulates=True)
    assert (found.parts["optimizer"], found.parts["gradients"], found.parts["weights"]) == (0, 0, 500)
    assert found.host == 2000 + 1000 + 1000 + 500  # moments, weights and gradients in float32, gradients as they came
    settings["zero_optimization"]["stage3_max_live_parameters"] = 0
    update = combine(SIZES, Footprint(0, 0, 0), settings, 4, accumulates=False)
    assert update.parts["gradients"] == 0
    settings["zero_optimization"] |= {"stage3_max_live_parameters": 1000, "offload_param": cpu}
    both = combine(SIZES, PASS, settings, 4, accumulates=True)
    assert both.parts["weights"] == 0
    assert both.host == found.host + 500


def test_moments_of_eight_bits():
    whole, small = (
        combine(SIZES, PASS, {}, 1, optim=optim, accumulates=True).parts["optimizer"]
        for optim in ("adamw_torch_fused", "adamw_bnb_8bit")
    )
    assert whole == 12_000
    assert small == pytest.approx(4000 + 2000, rel=0.02)  # the scales of its blocks are 1.6 %
