"""Every kind of adapter and optimizer under ZeRO: as plain torch, resumes bit for bit, exports to what was trained."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM
from variants_worker import BASES, STEPS, VARIANTS, config, rows, train

from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.export.folder import Options, export
from mftcoder.models.load import load_causal, load_token_nll

HERE = Path(__file__).parent
REFUSED = ("3:quantized-dora", "0:offload")
CASES = [f"{stage}:{variant}" for variant in VARIANTS for stage in (0, 2, 3) if f"{stage}:{variant}" not in REFUSED]
QUICK = (
    "2:pissa",
    "2:experts",
    "3:qlora",
    "3:dora",
    "3:tied-embeddings",
    "3:tied-new-tokens",
)  # the others only in the long suite
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    for name, make in BASES.items():
        make().save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, bases: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The findings of one launch on two ranks, for the cases that are to be tested; and where they lie."""
    folder = tmp_path_factory.mktemp("variants")
    wanted = {item.callspec.params["case"] for item in request.session.items if "test_variants" in item.nodeid}
    cases = [case for case in CASES if case in wanted]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE.parent}", "OMP_NUM_THREADS": "1"}
    worker = [str(HERE / "variants_worker.py"), str(bases), str(folder)]
    subprocess.run([*launcher, *worker, *cases], check=True, env=environment)
    return torch.load(folder / "found.pt", weights_only=True) | {"folder": folder}


def of_all(test: Any) -> Any:
    marks = [pytest.param(case, marks=() if case in QUICK else pytest.mark.long) for case in CASES]
    return pytest.mark.parametrize("case", marks)(test)


@of_all
def test_losses_equal_those_of_plain_torch(found, case, bases):
    settings = config(bases, found["folder"], case)
    engine = LocalEngine(load_token_nll(settings.model, settings.training, seed=settings.seed), settings.training)
    expected = train(engine, settings, Group(), range(STEPS))
    assert expected[-1] < expected[0] - 0.1 or max(expected) - min(expected) > 0.1
    # Float32; moments in 8 bits are rounded by blocks, which ZeRO cuts otherwise.
    rtol = 0.02 if case.endswith("8bit") else 1e-5
    torch.testing.assert_close(found[case]["losses"], expected, rtol=rtol, atol=0)


@of_all
def test_resumed_equals_never_stopped_bitwise(found, case):
    assert torch.equal(found[case]["resumed end"], found[case]["end"])
    assert not torch.equal(found[case]["end"], found[case]["trained"])


def nll_of(model: torch.nn.Module) -> torch.Tensor:
    """Of the same rows as ``held_out``, by the model's own logits."""
    batch = rows(99)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids).logits[:, :-1]
    return -logits.log_softmax(-1).gather(2, batch.targets.reshape(len(logits), -1, 1)).flatten()


@of_all
@pytest.mark.parametrize("merge", [True, False])
def test_exported_equals_trained(found, case, merge, tmp_path, bases):
    settings = config(bases, found["folder"], case)
    if settings.model.lora is None and not merge:
        return
    options = Options(checkpoint="last", merge=merge, verify=case in ("2:pissa", "3:qlora"))  # which costs a process
    export(found["folder"] / case, tmp_path / "export", options)
    if merge:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
        assert not hasattr(model.config, "quantization_config")
    else:
        model = PeftModel.from_pretrained(load_causal(settings.model), tmp_path / "export")
    trained, untrained = found[case]["trained"], nll_of(load_causal(settings.model))
    torch.testing.assert_close(nll_of(model.eval()), trained, rtol=1e-4, atol=1e-4)
    assert (trained - untrained).abs().max() > 0.5
