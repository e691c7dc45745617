"""What counts as agreement between ranks."""

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError, ReportedByMain
from mftcoder.training.agreement import alike, check_agreement, digest, odd_ranks


def refusals(*states: dict[str, Any], **weights: list[float]) -> list[str | None]:
    """What each rank of three says of these states, and of these values of weights on them."""
    barrier, said = Barrier(len(states)), [None] * len(states)

    class Rank(Group):
        def gather(self, value: Any) -> list[Any]:
            said[self.rank] = value
            barrier.wait()
            everywhere = copy.deepcopy(said)
            barrier.wait()
            return everywhere

        def on_main(self, action: Any) -> Any:
            return action()

    def check(rank: int) -> str | None:
        own = [(name, torch.tensor([values[rank], 1.0])) for name, values in weights.items()]
        try:
            check_agreement(7, own, states[rank], Rank(rank, len(states)))
        except (MftcoderError, ReportedByMain) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(states)) as ranks:
        return list(ranks.map(check, range(len(states))))


def test_ranks_that_agree_are_left_alone():
    state = {"step": 7, "task weights": [0.25, 0.75]}
    rounded = {"step": 7, "task weights": [0.25, 0.75 * (1 + 1e-12)]}
    assert refusals(state, state, rounded, a=[1.0, 1.0, 1.0]) == [None, None, None]


def test_what_differs_is_named_with_its_ranks():
    state = {"step": 7, "data position": [3, 5]}
    for said in refusals(state, state | {"data position": [3, 6]}, state, a=[1.0, 1.0, 1.0], b=[1.0, 1.0, 2.0]):
        assert said is not None
        assert said.startswith(
            "step 7: the ranks do not agree: weights differ on rank 2: b; data position differs on rank 1"
        )
    (said, *_) = refusals(state, state | {"data position": [3, 6]}, state, a=[1.0, 1.0, 1.0])
    assert said is not None
    assert "weights" not in said.split("A device")[0]


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
