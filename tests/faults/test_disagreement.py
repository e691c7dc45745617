"""A rank that no longer holds what the others hold stops the run before the next checkpoint."""

import pytest
from test_lost_ranks import harmed

pytestmark = pytest.mark.engine

NO_ROOM = {"stage3_param_persistence_threshold": 100_000}  # so that small weights are kept whole


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        (2, {}),
        pytest.param(0, {}, marks=pytest.mark.long),
        pytest.param(1, {}, marks=pytest.mark.long),
        pytest.param(3, NO_ROOM, marks=pytest.mark.long),
    ],
)
def test_a_flipped_bit_of_a_weight_is_found_and_named(stage, more, long_run, tmp_path):
    settings = {"zero_optimization": {"stage": stage, **more}}
    config = long_run("run", training__agreement_steps=1, deepspeed=settings)
    with harmed("flip", 1, config, tmp_path / "log") as run:
        assert run.end() != 0
        name = next(line for line in run.output.splitlines() if line.startswith("flipping")).split()[-1]
        assert f"step 6: the ranks do not agree: weights differ on ranks 0, 1: {name}" in run.output
    assert not list((tmp_path / "run").glob("checkpoints/*/checkpoint.json"))


@pytest.mark.long
def test_of_three_ranks_the_odd_one_is_named(long_run, tmp_path):
    config = long_run("run", training__agreement_steps=1, deepspeed={"zero_optimization": {"stage": 0}})
    with harmed("flip", 2, config, tmp_path / "log", ranks=3) as run:
        assert run.end() != 0
        assert "weights differ on rank 2: " in run.output
