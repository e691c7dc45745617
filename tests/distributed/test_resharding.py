"""What two ranks saved at any ZeRO stage, one rank reads at any other, bit for bit."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from end_to_end_project import ENVIRONMENT

from mftcoder.engine.stored_state import WEIGHT, read_state
from mftcoder.errors import MftcoderError

pytestmark = pytest.mark.engine

STAGES = (0, 1, 2, 3)
IN_SHORT = [f"{stage}:float32:full" for stage in STAGES] + ["3:bfloat16:lora"]
IN_FULL = [
    f"{stage}:{dtype}:{kind}" for stage in STAGES for dtype in ("float32", "bfloat16") for kind in ("full", "lora")
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """``saved(case)``: the folder of the checkpoint that two ranks wrote."""
    folder = tmp_path_factory.mktemp("saved")

    def save(case: str) -> Path:
        if not (folder / case).exists():  # all of its kind in one go
            run_on_two_ranks(folder, IN_SHORT if case in IN_SHORT else [c for c in IN_FULL if c not in IN_SHORT])
        return folder / case

    return save


def run_on_two_ranks(folder: Path, cases: list[str]) -> None:
    here = Path(__file__).parent
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(here / "reshard_worker.py"), str(folder), *cases],
        env=ENVIRONMENT | {"PYTHONPATH": f"{here.parent}:{here.parent.parent}:{here}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "case", [case if case in IN_SHORT else pytest.param(case, marks=pytest.mark.long) for case in IN_FULL]
)
def test_every_stage_reads_what_two_ranks_saved_at_any_bitwise(case, saved, one_process_group):
    from reshard_worker import held, make_engine

    expected = torch.load(saved(case) / "held.pt")
    _, *rest = case.split(":")
    for stage in STAGES:
        engine, _ = make_engine(":".join([str(stage), *rest]), one_process_group)
        engine.load_by_name(saved(case), weights_only=False)
        found = held(engine)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            for ours, theirs in zip(found[name], values, strict=True):
                assert torch.equal(ours, theirs), f"{name} at stage {stage}"
        assert {float(state["step"]) for state in engine._optimizer.state.values()} == {3.0}


@pytest.mark.parametrize("case", [pytest.param(f"{stage}:float32:full", marks=pytest.mark.long) for stage in (1, 2, 3)])
def test_it_is_what_deepspeeds_own_conversion_finds(case, saved, tmp_path):
    from deepspeed.checkpoint.ds_to_universal import main

    settings = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    main(
        Namespace(
            input_folder=str(saved(case) / "engine"),
            output_folder=str(tmp_path / "universal"),
            inject_missing_state=True,
            **settings,
        )
    )
    stored = read_state(saved(case) / "engine")
    assert stored.names == {path.parent.name for path in tmp_path.glob("universal/zero/*/exp_avg.pt")}
    for name in stored.names:
        for key, value in stored.of(name).items():
            file = tmp_path / "universal" / "zero" / name / f"{'fp32' if key == WEIGHT else key}.pt"
            theirs = torch.load(file, weights_only=False)  # of stage 3 by itself, and padded
            theirs = (theirs["param"] if isinstance(theirs, dict) else theirs).flatten()
            assert torch.equal(theirs[: len(value)], value)
            assert not theirs[len(value) :].any()


def test_weights_alone_leave_the_optimizer_as_it_began(saved, one_process_group):
    from reshard_worker import make_engine

    engine, _ = make_engine("2:float32:full", one_process_group)
    engine.load_by_name(saved("3:float32:full"), weights_only=True)
    expected = torch.load(saved("3:float32:full") / "held.pt")
    for name, parameter in engine.model.named_parameters():
        assert torch.equal(parameter, expected[name][0])
    assert all(not state.get("exp_avg", torch.zeros(1)).any() for state in engine._optimizer.state.values())


def test_other_parameters_than_the_config_trains_are_refused_and_named(saved, one_process_group):
    from reshard_worker import make_engine

    engine, _ = make_engine("1:float32:lora", one_process_group)
    with pytest.raises(MftcoderError, match="lora_A"):
        engine.load_by_name(saved("3:float32:full"), weights_only=True)
