"""Every family from a base model to an exported one: trained under ZeRO-3 on two ranks, exported, loaded again.

What is exported, merged or as an adapter, must be what was trained: on the validation samples, each by itself, it has
the loss that the run found in its last validation, on packed or padded rows.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end_project import ENVIRONMENT
from peft import PeftModel
from tiny import tiny_tokenizer
from tiny_families import FAMILIES, LEAKING, tiny_family
from transformers import AutoConfig, AutoModelForCausalLM

from mftcoder.config.load import load
from mftcoder.data.shards import Shards
from mftcoder.evaluation.losses import evaluate
from mftcoder.export.folder import Options, export
from mftcoder.models.families import adapter_of
from mftcoder.models.load import load_causal

pytestmark = pytest.mark.engine
HERE = Path(__file__).parent
LORA = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
VARIANTS: dict[str, dict[str, Any]] = {"full": {}, "lora": LORA, "qlora": LORA | {"quantization": {"type": "nf4"}}}
MODES = ("pack", "pad")
CASES = [
    (name, variant, mode)
    for name in (*FAMILIES, *LEAKING)
    for variant in VARIANTS
    for mode in MODES
    if (name in FAMILIES or mode == "pad") and not (name.startswith("falcon") and variant == "qlora")  # refused
]
QUICK = {
    ("qwen3-moe", "lora", "pack"),
    ("gemma2", "full", "pad"),
    ("gpt-neox", "qlora", "pack"),
}


@pytest.fixture(scope="module")
def trained(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder in which the runs lie that the chosen tests need, made in one launch."""
    folder = tmp_path_factory.mktemp("families")
    wanted = {item.callspec.params["case"] for item in request.session.items if item.path == Path(__file__)}
    paths = [written(folder, project, case) for case in CASES if case in wanted]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = [str(HERE / "families_worker.py"), *map(str, paths)]
    subprocess.run([*launcher, *worker], check=True, env=ENVIRONMENT, capture_output=True)
    return folder


def written(folder: Path, project: dict[str, Any], case: tuple[str, str, str]) -> Path:
    """The config of ``case``; its base model lies beside it."""
    name, variant, mode = case
    base = folder / name
    if not base.exists():
        tiny_family(name).save_pretrained(base)
        tiny_tokenizer().save_pretrained(base)
    model: dict[str, Any] = {"path": str(base), "dtype": "float32", **VARIANTS[variant]}
    if "lora" in model and adapter_of(AutoConfig.from_pretrained(base)).experts:
        model["lora"] = model["lora"] | {"target_parameters": "experts"}
    config = project | {
        "output_dir": str(folder / "-".join(case)),
        "model": model,
        "data": project["data"] | {"shards": str(folder / f"shards-{name}-{mode}"), "packing": {"mode": mode}},
        "loss": {},
        "training": project["training"] | {"max_steps": 3, "eval_steps": 3, "save_steps": 3, "learning_rate": 1e-2},
        "deepspeed": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
        "logging": {"logging_steps": 1, "report_to": []},
    }
    path = folder / f"{'-'.join(case)}.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.long, id="-".join(case)) for case in CASES]
)
def test_what_is_exported_is_what_was_trained(trained, case, tmp_path):
    run = trained / "-".join(case)
    error = Path(f"{run}.error")
    assert not error.exists(), error.read_text()
    config = load(f"{run}.json")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if line["kind"] == "validation"]
    export(run, tmp_path / "merged", Options(checkpoint="last", verify=False))
    assert not hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config, "quantization_config")
    shards = Shards.open(config.data.shards)
    found = evaluate(str(tmp_path / "merged"), shards)["tasks"]
    for task, loss in losses[-1].items():
        assert found[task]["nll"] == pytest.approx(loss, abs=2e-4)
    assert any(abs(losses[-1][task] - losses[0][task]) > 1e-2 for task in losses[0])
    if config.model.lora is None:
        return
    export(run, tmp_path / "adapter", Options(checkpoint="last", merge=False, verify=False))
    base = load_causal(config.model)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()(ids).logits
        torch.testing.assert_close(adapted(ids).logits, merged, rtol=1e-3, atol=1e-3)
