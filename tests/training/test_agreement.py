"""What counts as agreement between ranks."""

import pytest
import torch

from mftcoder.training.agreement import alike, digest, odd_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
def test_every_flip_of_one_bit_changes_the_digest_and_nothing_else_does(dtype):
    torch.manual_seed(0)
    weight = (torch.rand(7, 3) * 100).to(dtype)
    before = int(digest(weight))
    assert int(digest(weight.t().contiguous().t())) == before
    data = weight.view(-1).view(torch.uint8)
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            assert int(digest(weight)) != before
            data[place] ^= 1 << bit
    assert int(digest(weight)) == before


def test_not_a_number_agrees_with_itself():
    weight = torch.full((4,), float("nan"))
    assert int(digest(weight)) == int(digest(weight.clone()))
    assert alike({"loss": float("nan")}, {"loss": float("nan")})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1], ""),
        ([1, 1, 2], "rank 2"),
        ([2, 1, 1, 3, 1], "ranks 0, 3"),
        ([1, 2], "ranks 0, 1"),  # nobody can say which of two is right
        ([1, 1, 2, 2], "ranks 0, 1, 2, 3"),
    ],
)
def test_the_ranks_that_differ_from_most_are_named(values, expected):
    assert odd_ranks(values) == expected


def test_rounding_is_no_disagreement_but_counts_and_shapes_are():
    base = {"weights": [0.25, 0.75], "step": 7, "best": None}
    assert alike(base, {"weights": [0.25 * (1 + 1e-12), 0.75], "step": 7, "best": None})
    assert alike(base | {"weights": [0.25, 0.75, 0.0]}, base | {"weights": [0.25, 0.75, 1e-12]})
    assert not alike(base, base | {"weights": [0.2501, 0.75]})
    assert not alike(base, base | {"step": 8})
    assert not alike(base, base | {"weights": [0.25]})
    assert not alike(base, base | {"best": 0.0})
    assert not alike(base, {"weights": [0.25, 0.75], "step": 7})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_a_weight_may_lie_anywhere_in_a_buffer(dtype, offset):
    buffer = torch.arange(40).to(dtype)
    inside = buffer[offset : offset + 12]
    inside[:] = 1
    before = int(digest(inside))
    buffer[offset + 12] = 7
    assert int(digest(inside)) == before
    inside[11] = 2
    assert int(digest(inside)) != before
    assert int(digest(inside.clone())) == int(digest(inside))
