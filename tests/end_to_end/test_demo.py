"""tools/demo.sh over a few folders of source: interrupted, gone on with, called again, and with a changed config."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = (
    "task files",
    "tokenizer and untrained model",
    "text shards",
    "training on text",
    "base model",
    "task shards",
    "training on four tasks",
    "export",
    "evaluation on held-out files",
    "generation for held-out functions",
    "report",
)
pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture
def folder(tmp_path):
    """Where the demo runs: with configs of its own, which a test may change."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def start(folder: Path) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [ROOT / "tools" / "demo.sh", "--quick", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PATH": path},
        start_new_session=True,
    )


def finish(folder: Path) -> tuple[list[str], list[str], str]:
    """The stages that were reused, those that ran, and all output."""
    running = start(folder)
    output, _ = running.communicate()
    assert running.returncode == 0, output
    lines = output.splitlines()
    reused = [line.removeprefix("reused  ").split(":")[0] for line in lines if line.startswith("reused  ")]
    return reused, [line.strip("─ ") for line in lines if line.startswith("── ")], output


def test_the_demo_goes_on_where_it_was_and_does_again_only_what_changed(folder):
    demo = folder / "runs" / "demo"
    running = start(folder)
    while running.poll() is None and not list(demo.glob("text-run/checkpoints/*/checkpoint.json")):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate()
    assert running.returncode != 0
    assert 'stopped in "training on text"; the next call goes on from there' in output

    reused, ran, output = finish(folder)
    assert (reused, ran) == (list(STAGES[:3]), list(STAGES[3:]))
    assert "resuming from runs/demo/text-run/checkpoints/step-" in output
    metrics = [json.loads(line) for line in (demo / "text-run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if line["kind"] == "train"] == [5, 10, 12]
    evaluation = json.loads((demo / "four-tasks" / "evaluation.json").read_text())
    assert list(evaluation["tasks"]) == ["completion", "text-to-code", "comment", "repair"]
    assert all(task["change"] < 0 for task in evaluation["tasks"].values())
    generations = [json.loads(line) for line in (demo / "four-tasks" / "generations.jsonl").read_text().splitlines()]
    assert {line["task"] for line in generations} == set(evaluation["tasks"])
    page = (demo / "report.html").read_text()
    assert all(f"<h2>{heading}</h2>" in page for heading in ("Evaluation", "Generations"))

    (demo / "report.html").unlink()
    assert finish(folder)[:2] == (list(STAGES[:-1]), ["report"])
    assert (demo / "report.html").read_text() == page

    config = folder / "configs" / "demo" / "tasks.json"
    config.write_text(config.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.002'))
    assert finish(folder)[:2] == (list(STAGES[:5]), list(STAGES[5:]))
    assert finish(folder)[:2] == (list(STAGES), [])
