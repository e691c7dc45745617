"""Every wrong value is named with its place, what was found, and what would be right."""

import pytest

from mftcoder.config import parse
from mftcoder.config.load import apply_override
from mftcoder.errors import MftcoderError


def problems_after(config, *overrides):
    for override in overrides:
        apply_override(config, override)
    with pytest.raises(MftcoderError) as caught:
        parse(config, where="c.json")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("c.json: ") for line in lines)
    return [line.removeprefix("c.json: ") for line in lines]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.lerning_rate=1", 'training.lerning_rate: unknown key; did you mean "learning_rate"?'),
        ("learning_rate=1", 'learning_rate: unknown key; did you mean "training.learning_rate"?'),
        ("data.tasks.1.formt=x", 'data.tasks.1.formt: unknown key; did you mean "format"?'),
        ("qqq=1", "qqq: unknown key. Delete it."),
        ("training.lr=1", 'training.lr: unknown key; did you mean "learning_rate"?'),
        ("lr=1", 'lr: unknown key; did you mean "training.learning_rate"?'),
        ("training.epochs=1", 'training.epochs: unknown key; did you mean "num_train_epochs"?'),
        ("training.batch_size=1", 'did you mean "per_device_train_batch_size"?'),
        ("model.model_name_or_path=m", 'model.model_name_or_path: unknown key; did you mean "path"?'),
        ("data.max_length=1", 'data.max_length: unknown key; did you mean "sequence_length"?'),
        ("output_dir=", 'output_dir: must not be empty; found "".'),
        ("model.path=", 'model.path: must not be empty; found "".'),
        ("data.shards=", 'data.shards: must not be empty; found "".'),
        ("data.tasks.0.path=", 'data.tasks.0.path: must not be empty; found "".'),
        ("data.tasks.0.path=[]", "data.tasks.0.path: must have at least 1 entry; found []."),
        ('data.tasks.0.path=["x",""]', 'data.tasks.0.path.1: must not be empty; found "".'),
        ("seed=-1", "seed: must be at least 0; found -1."),
        ("seed=1.5", "seed: must be an integer; found 1.5."),
        ("seed=true", "seed: must be an integer; found true."),
        ("training.learning_rate=0", "training.learning_rate: must be greater than 0; found 0."),
        ("training.learning_rate=1e999", "training.learning_rate: must be a finite number; found Infinity."),
        ("training.adam_beta1=1", "training.adam_beta1: must be less than 1; found 1."),
        ("training.save_best=1", "training.save_best: must be true or false; found 1."),
        ("training=[]", "training: must be an object; found []."),
        ("model.lora=3", "model.lora: must be an object; found 3."),
        ("data.tasks=[]", "data.tasks: must have at least 1 entry; found []."),
        ("data.tasks=5", "data.tasks: must be a list; found 5."),
        ("data.tasks.0.path=5", "data.tasks.0.path: must be a string or a list; found 5."),
        ('data.tasks.0.path=["x",4]', "data.tasks.0.path.1: must be a string; found 4."),
        ("data.packing.mode=pak", 'must be "pack", "pad" or "pad_to_max"; found "pak"; did you mean "pack"?'),
        ("deepspeed=4", "deepspeed: must be a string or an object; found 4."),
        (
            "loss.weighting.x=4",
            'loss.weighting.type: missing; it must be "uniform", "proportional", "given", "famo", "famo_valid", '
            '"lbtw", "lbtw_valid", "dwa", "uncertainty", "gradnorm", "gradnorm_valid", "coba", '
            '"multiplicative" or "plugin".',
        ),
        ("loss.weighting.type=cobra", 'found "cobra"; did you mean "coba"?'),
        ('loss.weighting={"type":"given"}', "loss.weighting.weights: missing."),
        (
            'loss.weighting={"type":"uniform","temperature":1}',
            'unknown key with "type": "uniform"; it belongs to "dwa" or "coba".',
        ),
        ('loss.weighting={"type":"coba","windw_steps":1}', 'did you mean "window_steps"?'),
        ('loss.weighting={"type":"coba","probe":{"every":1}}', 'did you mean "every_steps"?'),
        (
            'logging.report_to=["wanbd"]',
            'logging.report_to.0: must be "tensorboard", "wandb" or "trackio"; found "wanbd"; did you mean "wandb"?',
        ),
        (
            'logging.profile={"steps":[5,3]}',
            "logging.profile.steps: must be the first and the last step; found [5, 3].",
        ),
    ],
)
def test_a_wrong_value_is_named_with_place_found_value_and_remedy(minimal, override, problem):
    (line,) = problems_after(minimal, override)
    assert problem in line


@pytest.mark.parametrize("name", ["", "a b", "../a", ".a", "a/b", "é", "a" * 101])
def test_a_task_name_is_safe_as_a_folder_name(minimal, name):
    minimal["data"]["tasks"][0]["name"] = name
    (line,) = problems_after(minimal)
    assert line.startswith("data.tasks.0.name: must ")


@pytest.mark.parametrize(
    ("overrides", "ignored", "decisive"),
    [
        (["training.save_strategy=epoch", "training.save_steps=7"], "training.save_steps", "training.save_strategy"),
        (["training.eval_strategy=epoch", "training.eval_steps=7"], "training.eval_steps", "training.eval_strategy"),
        (["training.eval_strategy=no", "training.eval_steps=7"], "training.eval_steps", "training.eval_strategy"),
        (
            ["training.lr_scheduler_type=constant", "training.min_learning_rate=1e-7"],
            "training.min_learning_rate",
            "training.lr_scheduler_type",
        ),
        (["training.decay_steps=9"], "training.decay_steps", "training.lr_scheduler_type"),
        (["training.decay_type=linear"], "training.decay_type", "training.lr_scheduler_type"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_an_error_that_names_what_decides(minimal, overrides, ignored, decisive):
    (line,) = problems_after(minimal, *overrides)
    assert line.startswith(f"{ignored}: would have no effect")
    assert decisive in line


def test_a_config_with_every_default_written_out_means_the_same(minimal):
    apply_override(minimal, "training.save_strategy=epoch")
    config = parse(minimal)
    assert parse(config.model_dump(mode="json")) == config


def test_every_problem_is_listed_not_only_the_first(minimal):
    del minimal["model"]["path"]
    lines = problems_after(minimal, "seed=-1", "training.lerning_rate=1", "data.tasks.0.path=5")
    assert {line.split(":")[0] for line in lines} == {
        "model.path",
        "seed",
        "training.lerning_rate",
        "data.tasks.0.path",
    }


def test_long_values_are_cut(minimal):
    (line,) = problems_after(minimal, f"seed={'x' * 1000}")
    assert len(line) < 100


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["data.tasks.1.name=a"], "data.tasks"),
        (["data.tasks.1.name=A"], "data.tasks"),
        (["data.tasks.1.name=Manifest.json"], "data.tasks"),
        (["training.min_learning_rate=1"], "training.min_learning_rate"),
        (["training.warmup_steps=1.5"], "training.warmup_steps"),
        (["training.lr_scheduler_type=warmup_stable_decay", "training.decay_steps=1.5"], "training.decay_steps"),
        (['training.learning_rates=[{"pattern":"(","multiplier":2}]'], "training.learning_rates.0.pattern"),
        (["training.eval_strategy=steps"], "training.eval_steps"),
        (["training.early_stopping_patience=1", "training.eval_strategy=no"], "training.early_stopping_patience"),
        (["training.early_stopping_patience=1", "data.validation_fraction=0"], "training.early_stopping_patience"),
        (['loss.weighting={"type":"given","weights":{"a":1}}'], "loss.weighting.weights"),
        (['loss.weighting={"type":"given","weights":{"a":1,"b":1,"c":1}}'], "loss.weighting.weights"),
        (['loss.weighting={"type":"given","weights":{"a":0,"b":0}}'], "loss.weighting.weights"),
        (['loss.weighting={"type":"coba","floor":0.5}'], "loss.weighting.floor"),
        (['loss.guard={"patience":2}'], "loss.guard"),
        (["loss.guard={}", 'loss.weighting={"type":"coba","preset":"paper"}'], "loss.guard"),
        (["data.validation_fraction=0.2", "data.validation_samples=9"], "data.validation_samples"),
        (["data.tasks.0.validation=v.jsonl", "data.tasks.0.validation_samples=9"], "data.tasks.0"),
        (['data.sampling={"type":"given","shares":{"a":1}}'], "data.sampling.shares"),
        (['data.sampling={"type":"given","shares":{"a":1,"b":1,"c":1}}'], "data.sampling.shares"),
        (['data.sampling={"type":"weighted"}', 'loss.denominator="epoch"'], "loss.denominator"),
        (['loss.weighting={"type":"multiplicative","floor":0.5}'], "loss.weighting.floor"),
        (['loss.weighting={"type":"famo_valid"}', "data.validation_fraction=0"], "loss.weighting"),
        (['loss.weighting={"type":"famo","minimum_losses":{"c":1}}'], "loss.weighting.minimum_losses"),
        (['loss.weighting={"type":"multiplicative","prior":{"c":1}}'], "loss.weighting.prior"),
        (['loss.reduction={"type":"focal_task","alpha":{"c":1}}'], "loss.reduction.alpha"),
        (['loss.weighting={"type":"coba","preset":"paper","probe":{"every_steps":2}}'], "loss.weighting.probe"),
        (['loss.weighting={"type":"coba","preset":"released","window_steps":99}'], "loss.weighting.window_steps"),
        (['loss.weighting={"type":"coba"}', "data.validation_fraction=0"], "loss.weighting"),
        (['loss.weighting={"type":"coba","window_steps":10}'], "loss.weighting.probe.every_steps"),
        (["model.dtype=float16", 'loss.weighting={"type":"gradnorm_valid"}'], "loss.weighting"),
        (['model.quantization={"type":"nf4"}'], "model.quantization"),
        (['model.lora={"initialization":"pissa"}', "model.quantization={}"], "model.lora.initialization"),
        (['model.lora={"initialization":"pissa","dora":true}'], "model.lora.initialization"),
        (['model.lora={"target_parameters":["x"]}'], "model.lora.dropout"),
        (['model.lora={"target_parameters":["x"],"dropout":0,"dora":true}'], "model.lora.dora"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(minimal, overrides, place):
    (line,) = problems_after(minimal, *overrides)
    assert line.startswith(f"{place}: ")


@pytest.mark.parametrize(
    "overrides",
    [
        ['loss.weighting={"type":"given","weights":{"a":0,"b":3}}'],
        ['loss.weighting={"type":"coba","floor":0.49}'],
        ['loss.weighting={"type":"coba","window_steps":21}'],
        ['loss.weighting={"type":"coba","preset":"paper"}'],
        ['loss.weighting={"type":"coba","preset":"released","window_steps":100}'],
        ['loss.weighting={"type":"famo"}', "data.validation_fraction=0"],
        ["training.warmup_steps=0.5"],
        ["training.warmup_steps=100"],
        ["training.min_learning_rate=5e-5", "training.learning_rate=5e-5"],
        ["training.lr_scheduler_type=warmup_stable_decay", "training.min_learning_rate=1e-6"],
        ["data.validation_fraction=0"],
        ["training.eval_strategy=steps", "training.eval_steps=1"],
        ['model.lora={"dora":true}', "model.quantization={}"],
        ['model.lora={"initialization":"pissa","rank_stabilized":true}'],
        ['model.lora={"target_parameters":["x"],"dropout":0}'],
    ],
)
def test_settings_at_the_edge_of_what_is_allowed_pass(minimal, overrides):
    for override in overrides:
        apply_override(minimal, override)
    parse(minimal)
