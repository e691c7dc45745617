"""The plan of a step's memory is what the step takes, and it says what would make a run fit."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from mftcoder.config.load import parse
from mftcoder.config.schema import Config
from mftcoder.training.memory import COMPILED, GIB, plan, smaller_plans

ROWS, LENGTH = 2, 64


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A model of 1.2M parameters."""
    folder = tmp_path_factory.mktemp("base")
    shape = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=1000, **shape)).save_pretrained(folder)
    return str(folder)


def config(base: str, stage: int, dtype: str, kind: str, checkpointing: bool, accumulation: int) -> Config:
    model: dict = {"path": base, "dtype": dtype}
    if kind != "full":
        model["lora"] = {"rank": 8, "dropout": 0.0}
    if kind == "qlora":
        model["quantization"] = {"type": "nf4"}
    auto = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
    return parse(
        {
            "output_dir": "unused",
            "model": model,
            "data": {"sequence_length": LENGTH, "tasks": [{"name": "task", "path": "unused"}]},
            "training": {
                "per_device_train_batch_size": ROWS,
                "gradient_accumulation_steps": accumulation,
                "activation_checkpointing": checkpointing,
            },
            "deepspeed": {"zero_optimization": {"stage": stage} | dict.fromkeys(auto, "auto")},
        }
    )


@pytest.mark.engine
@pytest.mark.parametrize(
    "mode",
    [
        (0, "float32", "full", False, 1),
        (2, "bfloat16", "full", True, 1),
        (2, "bfloat16", "lora", False, 2),
        (3, "bfloat16", "full", False, 2),
        (3, "bfloat16", "qlora", True, 1),
    ],
    ids=lambda mode: ":".join(map(str, mode)),
)
def test_the_plan_is_what_a_step_takes(base, mode, one_process_group, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    from bench_memory import count

    settings = config(base, *mode)
    assert plan(settings, 1, gpu=False).total == pytest.approx(count(settings), rel=0.1)


LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def llama_70b(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    return str(tmp_path)


@pytest.mark.long
def test_70b_fits_on_one_gpu_of_80_gib_by_qlora(llama_70b):
    one_row = config(llama_70b, 0, "bfloat16", "qlora", True, 16)
    one_row = one_row.model_copy(
        update={
            "data": one_row.data.model_copy(update={"sequence_length": 4096}),
            "training": one_row.training.model_copy(update={"per_device_train_batch_size": 1}),
        }
    )
    planned = plan(one_row, 1)
    assert planned.parameters - planned.trainable == 68_976_648_192  # of the published checkpoint
    # 4.127 bits for each weight of a linear layer, 2 bytes for embedding, head and gains.
    packed = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    assert planned.parts["weights"] == pytest.approx(packed * 4.127 / 8 + 2 * (68_976_648_192 - packed), rel=0.01)
    assert planned.total < 80 * GIB


def test_compiled_layers_keep_less_unless_they_recompute(base):
    for checkpointing, share in ((False, COMPILED), (True, 1)):
        plain = config(base, 0, "float32", "full", checkpointing, 1)
        compiled = plain.model_copy(update={"training": plain.training.model_copy(update={"torch_compile": True})})
        before, after = plan(plain, 1).parts, plan(compiled, 1).parts
        assert after["activations"] == int(share * before["activations"])
        assert {**after, "activations": 0} == {**before, "activations": 0}


def test_what_would_make_it_fit(base):
    large = config(base, 0, "float32", "full", False, 1)
    large = large.model_copy(update={"data": large.data.model_copy(update={"sequence_length": 1024})})
    remedies = dict(smaller_plans(large, world_size=4))
    assert set(remedies) == {
        "training.activation_checkpointing = true",
        "training.per_device_train_batch_size = 1 and gradient_accumulation_steps = 2",
        "ZeRO stage 2",
        "ZeRO stage 3",
        "model.lora",
        "model.lora and model.quantization",
    }
    before = plan(large, 4)
    assert remedies["training.activation_checkpointing = true"].parts["activations"] < before.parts["activations"]
    assert remedies["ZeRO stage 2"].parts["optimizer"] == pytest.approx(before.parts["optimizer"] * 1.5 / 4, rel=0.01)
    assert remedies["ZeRO stage 3"].parts["weights"] == pytest.approx(before.parts["weights"] / 4, rel=0.01)
    assert remedies["model.lora"].parts["optimizer"] < 0.5 * before.parts["optimizer"]
