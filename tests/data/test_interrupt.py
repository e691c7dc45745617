"""Ctrl-C while several processes tokenize."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny import tiny_tokenizer

NUM_FILES = 60


def test_ctrl_c_ends_with_one_line_and_keeps_what_is_encoded(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "code").mkdir()
    for number in range(NUM_FILES):
        lines = (
            json.dumps({"text": f"{number} {line} " + "def add(a, b): return a + b\n" * 20}) for line in range(800)
        )
        (tmp_path / "code" / f"{number}.jsonl").write_text("\n".join(lines))
    config = {
        "output_dir": "run",
        "model": {"path": "model"},
        "data": {"sequence_length": 256, "tasks": [{"name": "code", "path": "code"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "mftcoder", "tokenize", "config.json", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    samples = tmp_path / "run" / "shards.samples"
    end = time.monotonic() + 300
    while not list(samples.glob("*.json")):
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end, "nothing was encoded"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "mftcoder tokenize: interrupted"
    assert 0 < len(list(samples.glob("*.json"))) < NUM_FILES
    assert not list(samples.glob("*.partial"))
