"""What may differ when a run is resumed, as rules: no training."""

import pytest

from mftcoder.config.load import parse
from mftcoder.errors import MftcoderError
from mftcoder.training.checkpoint import Checkpoint
from mftcoder.training.resume import check_identity, with_rows_of


def config(micro: int, accumulation: int):
    return parse(
        {
            "output_dir": "unused",
            "model": {"path": "unused"},
            "data": {"tasks": [{"name": "a", "path": "unused"}]},
            "training": {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation},
        }
    )


def checkpoint(tmp_path, *, rows: int, on: int, started_on: int, **more: object) -> Checkpoint:
    return Checkpoint(tmp_path, {"rows_per_step": rows, "data_size": on, "started_on": started_on, **more})


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("before", [2, 4, 12])
def test_every_number_of_ranks_that_divides_a_step_keeps_its_rows(tmp_path, ranks, before):
    """Also when the run is resumed a second time on ranks that the config does not speak of."""
    written = config(2, 6)  # for two ranks: 24 rows
    fitted = with_rows_of(written, checkpoint(tmp_path, rows=24, on=before, started_on=2), ranks).training
    assert fitted.per_device_train_batch_size * fitted.gradient_accumulation_steps * ranks == 24


def test_a_step_that_ranks_cannot_share_is_refused_with_the_numbers_that_can(tmp_path):
    with pytest.raises(MftcoderError) as error:
        with_rows_of(config(2, 6), checkpoint(tmp_path, rows=24, on=2, started_on=2), 8)
    assert "24 rows, which 8 ranks cannot share in micro-batches of 2" in str(error.value)
    assert "Run on 1, 2, 3, 4, 6 or 12 rank(s), or set training.per_device_train_batch_size to 1 or 3." in str(
        error.value
    )


def test_other_rows_per_step_on_the_same_ranks_are_meant_and_left_to_be_refused(tmp_path):
    meant = config(2, 12)
    assert with_rows_of(meant, checkpoint(tmp_path, rows=24, on=2, started_on=2), 2) is meant


SETTINGS = {"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}
IDENTITY = {"tasks": ["a"], "data": {"fingerprint": "f"}, "config": {"training": {"optim": "adamw_torch"}}, "seed": 1}


@pytest.mark.parametrize("change", [{"world_size": 4}, {"deepspeed": SETTINGS | {"zero_optimization": {"stage": 3}}}])
def test_ranks_and_zero_settings_may_differ_and_are_told(tmp_path, change):
    then = IDENTITY | {"world_size": 2, "deepspeed": SETTINGS}
    told = check_identity(Checkpoint(tmp_path, then), then | change)
    assert told in ("world_size was 2, now 4", "deepspeed.zero_optimization.stage was 2, now 3")
    assert check_identity(Checkpoint(tmp_path, then), then) is None


NVME = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {"training": {"optim": "adamw_bnb_8bit"}}}, "adamw_bnb_8bit"),
        ({"deepspeed": NVME}, "NVMe"),
    ],
)
def test_state_that_cannot_be_divided_anew_is_refused_and_the_weights_are_offered(tmp_path, change, named):
    then = IDENTITY | {"world_size": 2, "deepspeed": SETTINGS} | change
    assert check_identity(Checkpoint(tmp_path, then), then) is None
    with pytest.raises(MftcoderError, match=f"(?s){named}.*weights alone"):
        check_identity(Checkpoint(tmp_path, then), then | {"world_size": 4})
