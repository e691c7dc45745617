"""DeepSpeed against plain torch: every ZeRO stage, every cut of a step into ranks, micro-batches, accumulation."""

import itertools
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from parity_worker import STEPS, config, model, run

from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine

HERE = Path(__file__).parent
STAGES = (0, 1, 2, 3)
OTHER_REDUCTIONS = ("token", "focal_sample", "focal_task")  # than "sample", which all other cases have
CASES = {  # ranks -> stage:micro_rows:accumulation
    1: [f"{stage}:{cut}" for stage in STAGES for cut in ("8:1", "1:8")]
    + ["2:8:1:lora", "3:1:8:lora", "0:8:1:poisoned", "0:8:1:bfloat16"]
    + [f"{stage}:4:2:{reduction}" for stage in (0, 3) for reduction in OTHER_REDUCTIONS],
    2: [f"{stage}:{cut}" for stage in STAGES for cut in ("4:1", "1:4")]
    + ["0:4:1:lora", "3:1:4:lora", "0:1:4:fused", "2:1:4:fused", "3:1:4:fused"]
    + [f"{stage}:1:4:{kind}" for stage in STAGES for kind in ("poisoned", "bfloat16")]
    + [f"{stage}:1:4:{reduction}" for stage in (0, 2, 3) for reduction in OTHER_REDUCTIONS]
    + ["3:1:4:poisoned:focal_task", "3:1:4:lora:focal_sample"],
}
PARTS = {  # ranks -> cases in which ranks share their rows
    2: ["0:8:1:parts2:unpacked", "2:4:2:parts2:varlen:token", "3:4:2:parts2:unpacked:checkpointing:focal_task"],
    # In four parts the two heads of keys and values are doubled.
    4: [f"{stage}:8:1:parts4:unpacked:{reduction}" for stage in STAGES for reduction in ("token", "sample")]
    + [f"{stage}:2:2:parts2:{kind}:token" for stage in STAGES for kind in ("unpacked", "varlen", "varlen:bfloat16")]
    + ["0:2:2:parts2:unpacked:poisoned", "3:2:2:parts2:varlen:poisoned", "2:4:2:parts4:varlen:lora:focal_sample"],
}
pytestmark = [pytest.mark.engine, pytest.mark.timeout(2400)]  # the first case waits for all of them to run


@cache
def local_run(*, lora: bool, reduction: str, optim: str = "adamw_torch", unpacked: bool = False) -> dict:
    """The whole step in one micro-batch, in plain torch."""
    settings = config(0, 8, 1, reduction=reduction, optim=optim)
    engine = LocalEngine(model(lora), settings.training)

    def read_gradient(trained: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in trained.parameters() if p.requires_grad])

    return run(engine, settings, Group(), read_gradient, unpacked=unpacked)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[int, dict]:
    """The results of one launch for each number of ranks, of the cases that are to be tested."""
    items = [item for item in request.session.items if "test_parity" in item.nodeid and "found" in item.fixturenames]
    wanted = [(item.callspec.params["ranks"], item.callspec.params["case"]) for item in items]
    results = {}
    for ranks in {ranks for ranks, _ in wanted}:
        cases = [case for size, case in wanted if size == ranks]
        out = tmp_path_factory.mktemp("parity") / "found.pt"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
        subprocess.run([*launcher, str(HERE / "parity_worker.py"), str(out), *cases], check=True, env=environment)
        results[ranks] = torch.load(out, weights_only=True)
    return results


# "poisoned": steps that were skipped for a loss that is not finite leave no trace in the ones that follow.
@pytest.mark.parametrize(
    ("ranks", "case"),
    [
        pytest.param(ranks, case, marks=pytest.mark.long if ranks > 2 else ())
        for table in (CASES, PARTS)
        for ranks, cases in table.items()
        for case in cases
    ],
)
def test_losses_and_gradients_equal_those_of_plain_torch(found, ranks, case):
    kinds = case.split(":")[3:]
    reduction = next((name for name in OTHER_REDUCTIONS if name in kinds), "sample")
    optim = "adamw_torch_fused" if "fused" in kinds else "adamw_torch"
    expected = local_run(lora="lora" in kinds, reduction=reduction, optim=optim, unpacked="unpacked" in kinds)
    ours = found[ranks][case]
    assert len(ours["losses"]) == STEPS
    assert ours["rows"] == expected["rows"]
    if "bfloat16" in kinds:  # 8 bits of mantissa
        torch.testing.assert_close(ours["losses"], expected["losses"], rtol=0.01, atol=0)
        return
    torch.testing.assert_close(ours["validation"], expected["validation"], rtol=3e-6, atol=1e-6)
    torch.testing.assert_close(ours["losses"], expected["losses"], rtol=1e-6, atol=0)
    torch.testing.assert_close(ours["norms"], expected["norms"], rtol=1e-5, atol=0)
    # At equal weights; later ones have drifted by what Adam makes of the rounding of gradients near 0.
    for gradient, reference, limit in zip(ours["gradients"], expected["gradients"], (1e-6, 3e-6), strict=True):
        assert (gradient - reference).norm() / reference.norm() <= limit


def test_the_oracle_learns_and_clips():
    for lora, reduction in itertools.product((False, True), ("sample", "focal_task")):
        run_of = local_run(lora=lora, reduction=reduction)
        first, last = sum(run_of["losses"][:5]), sum(run_of["losses"][-5:])  # the same epoch's rows
        assert last < 0.99 * first
        assert max(run_of["norms"]) > 0.5
