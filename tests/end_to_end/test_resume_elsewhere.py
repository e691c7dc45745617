"""A run that goes on with another number of ranks or another ZeRO stage, from another checkpoint, or as a new run."""

import json
from pathlib import Path
from typing import Any

import pytest
from end_to_end_project import succeed

pytestmark = pytest.mark.engine

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


@pytest.fixture
def write_exact(write_config, project, tmp_path):
    """Like ``write_config``, with a base model that has no dropout: what is drawn depends on the number of ranks."""

    def write(name: str, **changes: Any) -> Path:
        base = tmp_path / "base"
        if not base.exists():
            base.mkdir()
            for file in Path(project["model"]["path"]).iterdir():
                (base / file.name).write_bytes(file.read_bytes())
            settings = json.loads((base / "config.json").read_text())
            (base / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.0}))
        return write_config(name, model__path=str(base), logging__logging_steps=1, **changes)

    return write


def train_lines(output_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


WAYS = {  # name -> (ranks, stage) of three parts of a run, LoRA
    "2, 1, 4 ranks, stage 2": ([(2, 2), (1, 2), (4, 2)], None),
    "2, 1, 4 ranks, stage 3, LoRA": ([(2, 3), (1, 3), (4, 3)], LORA),
    "stages 0, 3, 1": ([(1, 0), (2, 3), (2, 1)], None),
}


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_on_other_ranks_and_stages_the_run_goes_on_as_if_nothing_had_happened(way, write_exact, tmp_path):
    parts, lora = WAYS[way]
    first, resumed = tmp_path / "run", "training.gradient_accumulation_steps: {}, so that {} rank(s) share 4 rows"
    for part, (ranks, stage) in enumerate(parts):
        config = write_exact(
            "run",
            model__lora=lora,
            training__per_device_train_batch_size=1,
            training__gradient_accumulation_steps=4 // parts[0][0],  # later parts find out by themselves
            training__max_steps=12,
            training__save_steps=4,
            deepspeed={"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}},
        )
        if part == 0:
            succeed("train", config, ranks=ranks)
            whole = train_lines(first)
            continue
        told = succeed("train", config, "--resume", f"step-{4 * part}", ranks=ranks)
        assert "divided among the ranks anew" in told
        if ranks != parts[0][0]:
            assert resumed.format(4 // ranks, ranks) in told
    ours = train_lines(first)
    assert [line["step"] for line in ours] == list(range(1, 13))
    assert [line["loss"] for line in ours[4:]] != [line["loss"] for line in whole[4:]], "nothing was trained anew"
    for line, expected in zip(ours, whole, strict=True):
        for key in ("units", "passes", "tokens", "learning_rate"):  # the very same rows
            assert line[key] == expected[key]
        # Float32 sums in another order, as Adam amplifies their rounding.
        assert line["loss"] == pytest.approx(expected["loss"], rel=2e-5)
        assert line["weights"] == pytest.approx(expected["weights"], rel=1e-3)
    assert {path.name for path in first.glob("checkpoints/*")} == {"step-000004", "step-000008", "step-000012"}
    assert {path.name for path in first.glob("left-at-step-000004/*")} == {"step-000008", "step-000012"}
