"""Every weighting and every reduction in a real run: it trains, and a resumed run continues its state bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_equal_bitwise, last_checkpoint, losses_logged

from mftcoder.config.load import load
from mftcoder.training.run import train

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_process_group")]

PROBE = {"every_steps": 1, "tokens": 200}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "uniform": {"type": "uniform"},
    "proportional": {"type": "proportional"},
    "given": {"type": "given", "weights": {"add": 1.0, "multiply": 2.0, "few": 3.0}},
    "coba": {"type": "coba", "window_steps": 4, "warmup_steps": 1, "probe": PROBE},
    "coba paper": {"type": "coba", "preset": "paper", "window_steps": 4, "warmup_steps": 1},
    "coba released": {"type": "coba", "preset": "released", "window_steps": 4, "warmup_steps": 1},
    "famo": {"type": "famo"},
    "famo_valid": {"type": "famo_valid", "probe": PROBE},
    "lbtw": {"type": "lbtw"},
    "lbtw_valid": {"type": "lbtw_valid", "probe": PROBE},
    "dwa": {"type": "dwa", "window_steps": 1},
    "uncertainty": {"type": "uncertainty"},
    "gradnorm": {"type": "gradnorm"},
    "gradnorm lm_head": {"type": "gradnorm", "shared": "lm_head"},
    "gradnorm_valid": {"type": "gradnorm_valid", "probe": PROBE},
    "multiplicative": {"type": "multiplicative", "probe": PROBE},
}
REDUCTIONS = ("token", "sample", "focal_sample", "focal_task")
MOVING = set(WEIGHTINGS) - {"uniform", "proportional", "given"}


PROPORTIONAL, WEIGHTED = {"type": "proportional"}, {"type": "weighted", "share": 0.7}
EQUAL = {"type": "equal", "max_passes": 6.0}


@pytest.mark.parametrize(
    ("weighting", "reduction", "denominator", "sampling"),
    [(name, "token", "step", PROPORTIONAL) for name in WEIGHTINGS]
    + [("famo", reduction, "step", PROPORTIONAL) for reduction in REDUCTIONS[1:]]
    + [
        ("coba", "focal_task", "epoch", PROPORTIONAL),
        ("coba", "token", "step", WEIGHTED),
        ("coba", "token", "epoch", EQUAL),
    ],
)
def test_it_trains_and_resumes_bitwise(weighting, reduction, denominator, sampling, write_config, tmp_path):
    path = write_config(
        "run",
        loss={
            "weighting": WEIGHTINGS[weighting],
            "reduction": {"type": reduction},
            "denominator": denominator,
        },
        data__sampling=sampling,
        training__max_steps=8,
        training__save_steps=4,
        logging={"logging_steps": 1, "report_to": []},
    )
    config = load(path)
    train(config)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "run", whole)
    shutil.rmtree(last_checkpoint(tmp_path / "run"))
    train(config, resume="last")

    ours, theirs = last_checkpoint(tmp_path / "run"), last_checkpoint(whole)
    assert ours.name == theirs.name == "step-000008"
    for file in sorted((theirs / "engine").iterdir()):
        assert_equal_bitwise(*(read(path / "engine" / file.name) for path in (ours, theirs)), file.name)
    states = [json.loads((path / "checkpoint.json").read_text()) for path in (ours, theirs)]
    assert states[0]["weighting"] == states[1]["weighting"]
    assert states[0]["reduction"] == states[1]["reduction"]
    lines = losses_logged(tmp_path / "run")
    assert lines == losses_logged(whole)
    trained = [line for line in lines if line["kind"] == "train"]
    assert len(trained) == 8
    assert not any(line["skipped"] for line in trained)
    last, run = trained[-1]["passes"], json.loads((tmp_path / "run" / "run.json").read_text())
    rows = {task: counts["rows"] for task, counts in run["data"]["tasks"].items()}
    assert sum(last[task] * rows[task] for task in rows) == pytest.approx(rows_dealt(8, sum(rows.values())))
    if sampling == EQUAL:
        assert last["few"] > 3 * last["add"]
    if weighting in MOVING:  # not merely uniform all along
        both = [line["weights"] for line in trained if line["losses"]["add"] and line["losses"]["multiply"]]
        assert len({round(w["add"] / w["multiply"], 9) for w in both}) > 1


def rows_dealt(steps: int, rows_per_epoch: int) -> int:
    """By steps of four rows, of which the last of an epoch has what is left."""
    epochs, more = divmod(steps, -(-rows_per_epoch // 4))
    return epochs * rows_per_epoch + min(more * 4, rows_per_epoch)


def read(file: Path) -> Any:
    return torch.load(file, weights_only=False)


def test_replay_sees_the_dropout_of_the_step(write_config, tmp_path):
    """Without progress FAMO's weights stay equal, to the last bit: only other dropout could make a difference."""
    changes = {"training__max_steps": 4, "logging": {"logging_steps": 1, "report_to": []}}
    train(load(write_config("run", loss={"weighting": {"type": "famo"}}, training__learning_rate=1e-30, **changes)))
    state = json.loads((last_checkpoint(tmp_path / "run") / "checkpoint.json").read_text())["weighting"]
    assert len({value for value in state["logits"] if value is not None}) == 1


def test_the_guard_stops_sampling_a_task_that_overfits_and_resumes_so(write_config, tmp_path):
    # "few" has four samples; to call any rise of its loss overfitting makes it stop early.
    changes = {
        "loss": {
            "weighting": {"type": "multiplicative", "learning_rate": 0.01, "probe": PROBE},
            "guard": {"patience": 1, "tolerance": 0.0},
            "denominator": "epoch",
        },
        "training": {"per_device_train_batch_size": 6, "learning_rate": 0.1, "max_steps": 24, "save_steps": 1},
        "logging": {"logging_steps": 1, "report_to": []},
    }
    config = load(write_config("run", **changes))
    train(config)
    lines = losses_logged(tmp_path / "run")
    stops = {line["task"]: line["step"] for line in lines if line["kind"] == "overfit"}
    assert stops, "nothing overfitted; the test shows nothing"
    for line in lines:
        if line["kind"] == "train":
            gone = [task for task, step in stops.items() if line["step"] > step + 1]
            if len(gone) < 3:  # a step is never left without any rows
                assert not any(line["units"][task] for task in gone)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "run", whole)
    # From the very step at which a task was found to overfit: the rows of the next one had been read with it.
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if path.name > f"step-{min(stops.values()):06d}":
            shutil.rmtree(path)
    train(config, resume="last")
    assert losses_logged(tmp_path / "run") == losses_logged(whole)
