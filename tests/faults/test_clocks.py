"""The clock of a host jumps."""

import json
import os
import signal
from pathlib import Path

import pytest
from end_to_end_project import MFTCODER
from fault_run import FaultRun

pytestmark = [pytest.mark.engine, pytest.mark.long]

LIBRARIES = [
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib64/faketime/libfaketime.so.1"),
]


def test_a_clock_that_jumps_back_by_three_days_changes_nothing(long_run, tmp_path):
    library = next((path for path in LIBRARIES if path.exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    now, output = tmp_path / "now", tmp_path / "run"
    now.write_text("+0")
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    config = long_run("run", training__save_steps=10, training__save_total_limit=2, training__watchdog_seconds=60.0)
    with FaultRun([*MFTCODER, "train", config], tmp_path / "log", **fake) as run:
        run.wait_for(lambda: list(output.glob("checkpoints/*/checkpoint.json")), "a checkpoint")
        now.write_text("-3d")
        newest = max(path.parent.name for path in output.glob("checkpoints/*/checkpoint.json"))
        later = f"step-{int(newest.removeprefix('step-')) + 30:06d}"
        run.wait_for(lambda: (output / "checkpoints" / later / "checkpoint.json").exists(), later)
        os.kill(run.process.pid, signal.SIGTERM)
        assert run.end() == 75, run.output
    kept = sorted(path.parent.name for path in output.glob("checkpoints/*/checkpoint.json"))
    assert len(kept) <= 3
    assert kept[-1] >= later
    for line in (output / "metrics.jsonl").read_text().splitlines():
        assert all(value >= 0 for name, value in json.loads(line).items() if name.endswith("seconds"))
    with FaultRun([*MFTCODER, "train", config, "--resume"], tmp_path / "log", **fake) as run:
        run.wait_for_line(f"resuming from {output / 'checkpoints' / kept[-1]}")
