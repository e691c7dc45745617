"""How the files of a checkpoint are put together, where the runs of tests/distributed have too few ranks to show it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mftcoder.engine.stored_state import WEIGHT, StoredState, _add_partitions, _by_rank, _moments, partition


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


def test_behind_a_padded_part_the_next_parameter_begins_where_it_was_put():
    whole = {"a": torch.arange(3.0), "b": torch.arange(10.0, 14.0), "c": torch.tensor([20.0])}
    stored = StoredState(Path())
    for rank, flat in enumerate(([0, 1, 10, 11, 20], [2, -1, 12, 13, -1])):  # -1: padding
        weights = torch.tensor(flat, dtype=torch.float32)
        moments = {"step": torch.tensor(7.0), "exp_avg": weights + 100}
        state = {"fp32_flat_groups": [weights], "optimizer_state_dict": {"state": {0: moments}}}
        _add_partitions(stored, state, [{name: value.shape for name, value in whole.items()}], rank, 2)
    assert stored.steps == 7.0
    assert stored.names == whole.keys()
    for name, value in whole.items():
        found = stored.of(name)
        assert found.keys() == {WEIGHT, "exp_avg"}
        assert torch.equal(found[WEIGHT], value)
        assert torch.equal(found["exp_avg"], value + 100)
