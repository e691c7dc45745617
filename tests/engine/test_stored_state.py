"""How the files of a checkpoint are put together, where the runs of tests/distributed have too few ranks to show it."""

from itertools import pairwise

import pytest
import torch

from mftcoder.engine.stored_state import _by_rank, _moments, partition


def test_files_come_in_the_order_of_ranks_and_not_of_names(tmp_path):
    for prefix, kind in (("bf16_", "optim_states"), ("", "model_states")):
        for rank in range(12):
            (tmp_path / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_{kind}.pt").touch()
        assert [file.name for file in _by_rank(tmp_path, kind)] == [
            f"{prefix}zero_pp_rank_{rank}_mp_rank_00_{kind}.pt" for rank in range(12)
        ]


@pytest.mark.parametrize("numel", [1, 2, 7, 12, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_partitions_are_equal_but_for_the_last_and_hold_every_element_once(numel, ranks):
    parts = [partition(numel, rank, ranks) for rank in range(ranks)]
    assert [element for begin, end in parts for element in range(begin, end)] == list(range(numel))
    sizes = [end - begin for begin, end in parts]
    assert all(size == -(-numel // ranks) for size, after in pairwise(sizes) if after)


def test_the_number_of_steps_is_no_moment_of_a_weight_of_one_element():
    state = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.ones(1), "scale": 2.0}
    assert _moments(state, torch.zeros(1)).keys() == {"exp_avg", "exp_avg_sq"}
