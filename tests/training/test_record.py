"""What a user is told when a run begins, beside its size."""

from types import SimpleNamespace

import pytest

from mftcoder.config.load import parse
from mftcoder.data.mixture import make_mixture
from mftcoder.training.probe import Probe
from mftcoder.training.record import _of_the_device, _of_the_weighting

EPOCH = "an epoch has 9 rows: every row once"
ROW = (0, 0)


def run(**changes):
    data = {"tasks": [{"name": name, "path": "unused"} for name in ("a", "b")]}
    config = parse({"output_dir": "unused", "model": {"path": "unused"}, "data": data, **changes})
    schedule = SimpleNamespace(mixture=make_mixture(config.data.sampling, {"a": 6, "b": 3}, seed=0))
    return SimpleNamespace(
        config=config, tasks=("a", "b"), schedule=schedule, probe=None, weighting=None, total_steps=9
    )


@pytest.mark.parametrize(
    ("mini_batches", "sparse", "told"),
    [
        ([[ROW] * 4], False, ["probe: 4 row(s) every 20 steps"]),
        ([[ROW] * 4, [ROW] * 3], False, ["probe: 2 mini-batches of 3 to 4 rows in turn every 20 steps"]),
        ([[]], False, ["probe: no task has held-out samples, so the weighting has nothing to watch"]),
        (
            [[ROW]],
            True,
            [
                "probe: 1 row(s) every 20 steps",
                "probe: to look at a row of every task every 20 steps would cost over 5 %",
            ],
        ),
    ],
)
def test_what_the_weighting_looks_at(mini_batches, sparse, told):
    begun = run()
    begun.probe = Probe(None, mini_batches, every_steps=20, sparse=sparse)
    assert list(_of_the_weighting(begun)) == [EPOCH, *told]


@pytest.mark.parametrize(("warmup", "told"), [(8, []), (9, ["weights stay uniform, since warmup_steps is 9"])])
def test_a_warmup_as_long_as_the_run(warmup, told):
    begun = run()
    begun.weighting = SimpleNamespace(warmup_steps=warmup)
    assert list(_of_the_weighting(begun)) == [EPOCH, *(f"loss.weighting: {line}" for line in told)]


def test_what_is_slow_or_unknown_on_a_gpu_is_said_there_only():
    begun, unknown = run(training={"full_determinism": True}), SimpleNamespace(peak_tflops=None)
    assert not list(_of_the_device(begun, "cpu", unknown))
    rate, determinism = _of_the_device(begun, "Some GPU", unknown)
    assert rate.startswith("the peak rate of Some GPU is not known")
    assert determinism.startswith("training.full_determinism")
    assert list(_of_the_device(run(), "Some GPU", SimpleNamespace(peak_tflops=900.0))) == []
