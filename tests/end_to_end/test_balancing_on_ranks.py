"""Every weighting comes to the same weights and losses on one rank and on two, whatever the ZeRO stage."""

import subprocess
import sys
from pathlib import Path

import pytest
from end_to_end_project import ENVIRONMENT
from test_balancing import REDUCTIONS, WEIGHTINGS
from test_resume import losses_logged

pytestmark = pytest.mark.engine
STAGES = (0, 2, 3)
CASES = [(name, "token") for name in WEIGHTINGS] + [("famo", reduction) for reduction in REDUCTIONS[1:]]


def test_one_rank_and_two_agree(write_config, base_model, tmp_path):
    for ranks in (1, 2):
        paths = [
            write_config(
                f"{ranks}-{number}",
                model__path=str(base_model),  # without dropout, whose random numbers depend on the rank
                loss={"weighting": WEIGHTINGS[name], "reduction": {"type": reduction}},
                training__max_steps=8,
                training__gradient_accumulation_steps=2 // ranks,
                deepspeed={"zero_optimization": {"stage": STAGES[number % 3] if ranks == 2 else 0}},
                logging={"logging_steps": 1, "report_to": []},
            )
            for number, (name, reduction) in enumerate(CASES)
        ]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        worker = [str(Path(__file__).with_name("train_worker.py")), *map(str, paths)]
        done = subprocess.run([*launcher, *worker], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
    for number, case in enumerate(CASES):
        ours, theirs = (losses_logged(tmp_path / f"{ranks}-{number}") for ranks in (2, 1))
        assert len(ours) == len(theirs) > 8
        for line, reference in zip(ours, theirs, strict=True):
            for key in ("losses", "weights", "units"):
                assert known(line.get(key)) == pytest.approx(known(reference.get(key)), rel=1e-4), (case, line["step"])


def known(by_task: dict | None) -> dict:
    return {task: value for task, value in (by_task or {}).items() if value is not None}
