import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mftcoder.config import parse
from mftcoder.config.deepspeed import resolve, zero_stage
from mftcoder.errors import MftcoderError

PRESETS = Path(__file__).parents[2] / "configs" / "deepspeed"
TRAINING = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 2e-4,
    "weight_decay": 0.1,
    "max_grad_norm": 0.7,
}
OURS = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 3,
    "train_batch_size": 24,  # 2 rows x 3 micro-batches x 4 ranks
    "gradient_clipping": 0.7,
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
}
ADAMW = {"type": "AdamW", "params": {"lr": 2e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}}


def resolved(minimal, deepspeed, **model):
    minimal["model"] |= model
    config = parse(minimal | {"training": TRAINING, "deepspeed": deepspeed})
    return resolve(config, world_size=4, hidden_size=64)


def everything_auto(value):
    return {key: everything_auto(inner) for key, inner in value.items()} if isinstance(value, dict) else "auto"


@pytest.mark.parametrize("theirs", [{}, OURS, everything_auto(OURS), dict.fromkeys(OURS, "auto")])
def test_our_keys_may_be_absent_auto_or_equal(minimal, theirs):
    result = resolved(minimal, theirs)
    assert {key: result[key] for key in OURS} == OURS


@pytest.mark.parametrize("optimizer", ["auto", ADAMW, everything_auto(ADAMW), {"type": "AdamW"}])
def test_an_optimizer_that_agrees_is_left_to_the_engine(minimal, optimizer):
    result = resolved(minimal, {"optimizer": optimizer, "scheduler": "auto"})
    assert not {"optimizer", "scheduler"} & result.keys()


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but training.max_grad_norm is 0.7. Make them equal"),
        ({"train_micro_batch_size_per_gpu": 1}, "is 1, but training.per_device_train_batch_size is 2."),
        ({"gradient_accumulation_steps": 1}, "is 1, but training.gradient_accumulation_steps is 3."),
        ({"train_batch_size": 6}, "train_batch_size is 6, but micro-batch × accumulation × ranks is 2 × 3 × 4."),
        ({"bf16": {"enabled": False}}, 'bf16.enabled is false, but model.dtype is "bfloat16".'),
        ({"fp16": {"enabled": True}}, 'fp16.enabled is true, but model.dtype is "bfloat16".'),
        ({"optimizer": {"type": "Adam"}}, 'optimizer.type is "Adam", but the optimizer is AdamW.'),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "lr is 0.001, but training.learning_rate is 0.0002."),
        ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, "training.adam_beta1 and adam_beta2 are [0.9, 0.999]."),
        ({"optimizer": {"params": {"torch_adam": True}}}, "optimizer.params.torch_adam would have no effect"),
        ({"scheduler": {"type": "WarmupLR"}}, '"WarmupLR"}, but training.lr_scheduler_type is "cosine".'),
        ({"zero_optimization": {"sub_group_size": "auto"}}, 'zero_optimization.sub_group_size is "auto"'),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage must be 0, 1, 2 or 3; found 4."),
        ({"zero_optimization": "auto"}, 'zero_optimization is "auto"'),
        ({"bf16": True}, "bf16 must be an object; found true."),
        ({"optimizer": {"params": 3}}, "optimizer.params must be an object; found 3."),
        ({"bfloat16": {"enabled": True}}, "Rename it to bf16."),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size is 2, but training.sequence_parallel_size is 1. Make"),
        ({"checkpoint": {"writer": {"decoupled": True}}}, "checkpoint.writer lets a save go on while training does"),
        ({"data_parallel_size": 4}, "data_parallel_size follows from the ranks and training.sequence_parallel_size"),
    ],
)  # fmt: skip
def test_a_contradiction_names_both_keys_and_both_values(minimal, theirs, message):
    with pytest.raises(MftcoderError) as caught:
        resolved(minimal, theirs)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("deepspeed: ")
    assert message in line


def test_a_contradiction_in_a_file_names_the_file_and_all_are_listed(minimal, tmp_path):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"gradient_clipping": 1, "train_batch_size": 1}), encoding="utf-8")
    with pytest.raises(MftcoderError) as caught:
        resolved(minimal, str(path))
    assert [line.startswith(f"{path}: ") for line in str(caught.value).splitlines()] == [True, True]


def test_dora_on_4_bits_is_refused_under_stage_3_only(minimal):
    model = {"lora": {"dora": True}, "quantization": {"type": "nf4"}}
    resolved(minimal, {"zero_optimization": {"stage": 2}}, **model)
    with pytest.raises(MftcoderError, match=r"zero_optimization\.stage is 3, but model\.lora\.dora"):
        resolved(minimal, {"zero_optimization": {"stage": 3}}, **model)


def test_moments_in_8_bits_pass_the_check_for_known_optimizers_and_are_not_offloaded(minimal):
    minimal["training"] = TRAINING | {"optim": "adamw_bnb_8bit"}
    config = parse(minimal | {"deepspeed": {"zero_optimization": {"stage": 2}}})
    assert resolve(config, world_size=1, hidden_size=64)["zero_allow_untested_optimizer"] is True
    offloaded = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    with pytest.raises(MftcoderError, match=r"offload_optimizer moves the moments .* training\.optim is"):
        resolve(parse(minimal | {"deepspeed": offloaded}), world_size=1, hidden_size=64)
    resolved(minimal, offloaded)


def test_float32_switches_both_low_precisions_off(minimal):
    result = resolved(minimal, {"bf16": {"enabled": "auto"}}, dtype="float32")
    assert (result["bf16"], result["fp16"]) == ({"enabled": False}, {"enabled": False})


def test_float16_switches_its_loss_scaling_on_and_keeps_what_is_said_of_it(minimal):
    result = resolved(minimal, {"fp16": {"enabled": "auto", "initial_scale_power": 12}}, dtype="float16")
    assert (result["bf16"], result["fp16"]) == ({"enabled": False}, {"enabled": True, "initial_scale_power": 12})
    with pytest.raises(MftcoderError, match=r'fp16\.enabled is false, but model\.dtype is "float16"'):
        resolved(minimal, {"fp16": {"enabled": False}}, dtype="float16")


def test_everything_else_passes_through_and_the_input_is_untouched(minimal):
    theirs = {
        "steps_per_print": 7,
        "comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]},
        "bf16": {"immediate_grad_update": True},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "reduce_bucket_size": "auto"},
    }
    before = copy.deepcopy(theirs)
    result = resolved(minimal, theirs)
    assert theirs == before
    assert result["steps_per_print"] == 7
    assert result["comms_logger"] == theirs["comms_logger"]
    assert result["bf16"] == {"immediate_grad_update": True, "enabled": True}
    assert result["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert result["wall_clock_breakdown"] is False


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_presets_resolve_to_their_stage(minimal, stage):
    assert zero_stage(resolved(minimal, str(PRESETS / f"zero{stage}.json"))) == stage


def leaves(value, path=""):
    """Dotted keys of nested objects that hold no object."""
    for key, inner in value.items():
        place = f"{path}.{key}".lstrip(".")
        yield from leaves(inner, place) if isinstance(inner, dict) else [place]


def test_every_preset_and_every_key_in_it_has_a_line_in_the_readme_and_none_is_made_up():
    text = (PRESETS / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in PRESETS.glob("*.json")}
    assert set(re.findall(r"\]\(([^)]+)\)", text)) == files
    keys = {key for name in files for key in leaves(json.loads((PRESETS / name).read_text()))}
    described = {
        key for line in text.split("| Key |")[1].splitlines() for key in re.findall("`([^`]+)`", line.split("|")[1])
    }
    assert described == keys


@pytest.mark.engine
@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.json")), ids=lambda path: path.stem)
def test_deepspeed_knows_every_key_of_the_presets(minimal, path):
    from mftcoder.engine.settings import check_settings

    check_settings(resolved(minimal, str(path)))


def test_zero_is_off_when_nothing_is_said(minimal):
    assert zero_stage(resolved(minimal, {})) == 0


@pytest.mark.engine
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_transformers_fills_the_same_values(minimal, stage):
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    preset = json.loads((PRESETS / f"zero{stage}.json").read_text())
    oracle = HfTrainerDeepSpeedConfig(copy.deepcopy(preset))
    arguments = SimpleNamespace(
        world_size=4, save_on_each_node=False, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
        fp16=False, fp16_full_eval=False, bf16=True, bf16_full_eval=False, get_warmup_steps=lambda steps: 0, **TRAINING,
    )  # fmt: skip
    oracle.trainer_config_process(arguments)
    oracle.trainer_config_finalize(arguments, SimpleNamespace(config=SimpleNamespace(hidden_size=64)), 10)
    result = resolved(minimal, preset)
    assert {key: result[key] for key in preset} == oracle.config


@pytest.mark.engine
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_itself_reads_the_result(minimal, stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    config = parse(minimal | {"training": TRAINING, "deepspeed": str(PRESETS / f"zero{stage}.json")})
    read = DeepSpeedConfig(resolve(config, world_size=1, hidden_size=64))
    assert (read.train_batch_size, read.gradient_clipping, int(read.zero_optimization_stage)) == (6, 0.7, stage)
    assert read.bfloat16_config.enabled
    assert not read.float16_config.enabled
    assert read.optimizer_name is None


def test_ranks_that_share_rows_bring_fewer_rows_per_step(minimal):
    training = TRAINING | {"sequence_parallel_size": 2}
    config = parse(minimal | {"training": training, "deepspeed": {"sequence_parallel_size": "auto"}})
    settings = resolve(config, world_size=4, hidden_size=64)
    assert (settings["train_batch_size"], settings["sequence_parallel_size"]) == (12, 2)
    with pytest.raises(MftcoderError, match="sequence_parallel_size is 2, which does not divide the 3 ranks"):
        resolve(config, world_size=3, hidden_size=64)
