"""The benchmarks' own instruments: what they say of a process, and the config that they train with."""

import sys
from pathlib import Path

import pytest

from mftcoder.config.load import load

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def test_a_watched_process_is_seen_with_its_children_s_memory_and_time(tools):
    from process import watch

    child = "x = bytearray(b'1') * (200 << 20); import time; time.sleep(1); print('done')"
    parent = (
        "import subprocess, sys, time\n"
        "print('begin'); print('50%', end='\\r')\n"
        "end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])\n"
        "print('end')\n"
    )
    seen = watch([sys.executable, "-c", parent], {}, note=lambda line: line != "done\n")
    assert [line.text for line in seen.lines] == ["begin", "50%", "end"]
    assert seen.lines[-1].processor_seconds >= seen.lines[0].processor_seconds + 0.45  # clock ticks of 10 ms
    assert 200 < seen.peak_mib < 400


def test_a_watched_process_that_fails_is_told_with_its_last_words(tools):
    from process import watch

    with pytest.raises(RuntimeError, match="no such thing"):
        watch([sys.executable, "-c", "raise SystemExit('no such thing')"], {})


def test_the_config_that_is_measured_is_valid_and_trains_what_the_peers_train(tools, tmp_path):
    import peers
    import yaml

    (tmp_path / "code.jsonl").write_text("")
    work = peers.Work(tmp_path / "model", tmp_path, sequence_length=96, rows_per_step=3, lora_rank=4)
    config = load(peers.ours(work, tmp_path / "ours", attention="eager").config)
    for program in (peers.trl, peers.llamafactory):
        theirs = yaml.safe_load(program(Path("bin/python"), work, tmp_path / program.__name__).config.read_text())
        assert theirs.get("max_length", theirs.get("cutoff_len")) == config.data.sequence_length
        assert theirs.get("lora_r", theirs.get("lora_rank")) == config.model.lora.rank
        assert theirs["per_device_train_batch_size"] == config.training.per_device_train_batch_size
        assert theirs["max_steps"] == config.training.max_steps
        assert theirs["learning_rate"] == config.training.learning_rate
