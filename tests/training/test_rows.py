"""What of its shards a run reads, by its config: the steps and their rows, and the units to expect of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mftcoder.config.load import parse
from mftcoder.config.schema import Config
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.training.rows import expected_units, make_schedule, total_steps, weighted_sampling
from mftcoder.training.sampling import WeightedSampling

COUNTS = {"a": 12, "b": 5, "c": 1}


@pytest.fixture
def make_shards(base_model: Path, tmp_path: Path) -> Callable[..., tuple[Config, Shards]]:
    """``make_shards(sampling, seed, **training)``: a config and its shards, of a row for every sample."""

    def make(sampling: dict, seed: int = 42, **training: object) -> tuple[Config, Shards]:
        for task, count in COUNTS.items():
            lines = [json.dumps({"prompt": "p" * n, "completion": f"{task} {n} " * (n + 1)}) for n in range(count)]
            (tmp_path / f"{task}.jsonl").write_text("\n".join(lines))
        tasks = [{"name": task, "path": str(tmp_path / f"{task}.jsonl")} for task in COUNTS]
        data = {"sequence_length": 64, "validation_fraction": 0.0, "packing": {"mode": "pad"}, "tasks": tasks}
        config = parse(
            {
                "output_dir": str(tmp_path / "run"),
                "seed": seed,
                "model": {"path": str(base_model)},
                "data": {**data, "shards": str(tmp_path / "shards"), "sampling": sampling},
                "training": {"per_device_train_batch_size": 4} | training,
            }
        )
        if not shards_path(config).exists():
            prepare(config, tell=lambda message: None)
        return config, Shards.open(shards_path(config))

    return make


@pytest.mark.parametrize("sampling", [{"type": "equal"}, {"type": "temperature", "temperature": 3.0}])
@pytest.mark.parametrize("unit", ["token", "sample"])
def test_expected_units_are_the_mean_of_what_the_schedule_deals_out(unit, sampling, make_shards):
    config, shards = make_shards(sampling)
    schedule = make_schedule(config, shards, world_size=1)
    epochs = math.lcm(*COUNTS.values())  # every task ends with a whole pass
    rows, seen = [shards.rows(task) for task in shards.tasks], np.zeros(3)
    for step in range(epochs * schedule.steps_per_epoch):
        for task, row in schedule.rows(step):  # short at the end of an epoch
            seen[task] += rows[task][row].supervised.sum() if unit == "token" else 1
    expected = expected_units(shards, unit, schedule)
    np.testing.assert_allclose(seen / (epochs * schedule.steps_per_epoch), expected, rtol=1e-12)


def test_the_ranks_that_share_rows_count_once(make_shards):
    config, shards = make_shards({"type": "proportional"}, gradient_accumulation_steps=3, sequence_parallel_size=2)
    assert make_schedule(config, shards, world_size=4).rows_per_step == 4 * 3 * 2


def test_a_run_ends_with_its_last_epoch_or_at_max_steps(make_shards):
    for training, expected in (({"num_train_epochs": 1.5}, 8), ({"num_train_epochs": 4}, 20), ({"max_steps": 7}, 7)):
        config, shards = make_shards({"type": "proportional"}, **training)
        schedule = make_schedule(config, shards, world_size=1)
        assert schedule.steps_per_epoch == 5  # of 18 rows
        assert total_steps(config, schedule) == expected


def test_rows_are_drawn_by_weight_only_when_asked_by_the_configs_share_and_seed(make_shards):
    weights, every = np.array([0.1, 0.2, 0.7]), np.array([True, True, True])
    for seed, share in ((1, 0.2), (2, 0.9)):
        config, shards = make_shards({"type": "weighted", "share": share}, seed)
        sampling = weighted_sampling(config, make_schedule(config, shards, world_size=1))
        expected = WeightedSampling(tuple(COUNTS.values()), 4, share, seed)
        for step in range(3):
            assert sampling.rows(step, weights, every) == expected.rows(step, weights, every)
    config, shards = make_shards({"type": "proportional"})
    assert weighted_sampling(config, make_schedule(config, shards, world_size=1)) is None
