"""The lines of metrics.jsonl, from steps made by hand."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from mftcoder.config.schema import Config
from mftcoder.distributed import Group
from mftcoder.engine.protocol import StepInfo
from mftcoder.tasks import TaskSet
from mftcoder.training.flops import Hardware, TrainingFlops
from mftcoder.training.metrics import Metrics, Window
from mftcoder.training.step import StepResult

TASKS = TaskSet(("a", "b"))
HARDWARE = Hardware(Group().device, 2, TrainingFlops(6e9, 1e9, 1e3), peak_tflops=3.0)


def make_result(tokens: int, supervised: int, pairs: int) -> StepResult:
    share = np.array([0.5, 0.5])
    units = np.array([supervised - 1.0, 1.0])
    return StepResult(units * 2.0, units, np.ones(2), share, tokens, supervised, pairs, 0.0, StepInfo(1.0, False))


def make_metrics(output_dir: Path, every: int) -> Metrics:
    config = Config.model_validate(
        {
            "output_dir": str(output_dir),
            "model": {"path": "base"},
            "data": {"tasks": [{"name": name, "path": "x"} for name in TASKS]},
            "logging": {"logging_steps": every, "report_to": []},
        }
    )
    return Metrics(config, TASKS, HARDWARE, first_step=0, total_steps=4, enabled=True)


def note(metrics: Metrics, step: int, result: StepResult, seconds: float, data: float, sums: float) -> None:
    rates = {"seconds": seconds, "data_seconds": data, "communication_seconds": sums}
    metrics.step(result, step=step, epoch=0.0, passes=np.zeros(2), learning_rate=1e-4, last=False, **rates)


def test_rates_and_times_of_a_line_are_those_since_the_line_before(tmp_path):
    metrics = make_metrics(tmp_path, every=2)
    note(metrics, 1, make_result(900, 200, 10_000), seconds=1.5, data=0.25, sums=0.125)
    with metrics.timing("save"):
        time.sleep(0.05)
    note(metrics, 2, make_result(1100, 200, 30_000), seconds=0.5, data=0.25, sums=0.0)
    note(metrics, 3, make_result(1000, 100, 0), seconds=1.0, data=0.0, sums=0.5)
    note(metrics, 4, make_result(1000, 100, 0), seconds=1.0, data=0.0, sums=0.5)
    metrics.close()
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["tokens_per_second"], first["supervised_tokens_per_second"]) == (1000, 200)
    # 2,000 tokens, 400 supervised ones and 40,000 pairs in 2 s on two ranks of 3e12 per second
    assert first["mfu"] == pytest.approx((2000 * 6e9 + 400 * 1e9 + 40_000 * 1e3) / (2 * 2 * 3e12))
    assert (first["data_seconds"], first["communication_seconds"], first["probe_seconds"]) == (0.5, 0.125, 0)
    saved = first["save_seconds"]
    assert saved >= 0.05
    assert first["overhead"] == pytest.approx((0.5 + saved) / (2.0 + saved))
    assert (second["data_seconds"], second["communication_seconds"], second["save_seconds"]) == (0, 1.0, 0)
    assert second["overhead"] == 0
    assert 0.05 < first["memory_gib"] < 64


def test_a_window_survives_a_checkpoint_in_its_middle():
    whole, ours = Window(2), Window(2)
    for window in (whole, ours):
        window.add(make_result(900, 200, 10_000), 1.5)
        window.parts["probe"] += 0.5
    resumed = Window(2)
    resumed.load_state_dict(json.loads(json.dumps(ours.state_dict())))
    for window in (whole, resumed):
        window.add(make_result(100, 50, 100), 0.5)
        window.parts["data"] += 0.25
    assert resumed.state_dict() == whole.state_dict()


def test_a_line_on_a_terminal_or_not_tells_tasks_weights_rate_and_time_left(tmp_path, capsys):
    metrics = make_metrics(tmp_path, every=1)
    note(metrics, 1, make_result(900, 200, 10_000), seconds=0.5, data=0.0, sums=0.0)
    metrics.close()
    shown = capsys.readouterr().out
    assert shown.startswith("step 1/4  loss 2.0000  a 2.000 (w 0.50)  b 2.000 (w 0.50)  1,800 tokens/s  left 0:00:")
