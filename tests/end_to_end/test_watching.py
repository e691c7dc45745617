"""What a run tells of its time, memory and steps, on two ranks."""

import gzip
import json

import pytest
from end_to_end_project import command, succeed

pytestmark = pytest.mark.engine


def test_times_memory_and_a_trace_of_a_deterministic_run(write_config, tmp_path):
    config = write_config(
        "watched",
        deepspeed={"zero_optimization": {"stage": 2}},
        training__gradient_accumulation_steps=1,
        training__max_steps=6,
        training__full_determinism=True,
        logging={"logging_steps": 2, "peak_tflops": 0.1, "profile": {"steps": [3, 4], "ranks": [1]}},
    )
    succeed("train", config, ranks=2)
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [2, 4, 6]
    for line in steps:
        assert 0 < line["data_seconds"] + line["communication_seconds"] < line["seconds"]
        assert line["communication_seconds"] > 0
        assert 0 < line["mfu"] < 1
        assert 0.1 < line["memory_gib"] < 16
        assert line["tokens_per_second"] * line["seconds"] == pytest.approx(line["tokens"])
        assert line["supervised_tokens_per_second"] * line["seconds"] == pytest.approx(line["supervised_tokens"])
    # The lines of probes, validations and checkpoints measure the same from inside; the last come after the last step.
    for part, kind in (("probe", "probe"), ("validation", "validation"), ("save", "checkpoint")):
        told = sum(line["seconds"] for line in lines if line["kind"] == kind and line["step"] < 6)
        assert sum(line[f"{part}_seconds"] for line in steps) == pytest.approx(told, abs=0.5)

    traces = list((tmp_path / "watched" / "profile").iterdir())
    assert [path.name for path in traces] == ["from-step-3-rank-1.json.gz"]
    events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    spans = [event["name"] for event in events if event.get("name", "").startswith("mftcoder: ")]
    assert sorted(set(spans)) == [f"mftcoder: {part}" for part in ("agreement", "probe", "save", "validation")]
    assert any("all_reduce" in event.get("name", "") for event in events)


def test_a_rank_to_profile_that_there_is_not_is_an_error_before_training(write_config, tmp_path):
    done = command("train", write_config("wrong", logging={"profile": {"steps": [1, 2], "ranks": [1]}}))
    assert done.returncode == 2
    assert "logging.profile.ranks: must be below 1, the number of ranks; found 1" in done.stderr
    assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
