"""DeepSpeed settings: what its parser takes passes, what it would refuse or ignore is an error that names the key."""

import logging

import pytest

from mftcoder.config import parse
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError

pytestmark = pytest.mark.engine

PLAIN = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4, "train_batch_size": 64}
DOCUMENTED = {  # https://www.deepspeed.ai/docs/config-json
    "activation_checkpointing": {"partition_activations": False},
    "aio": {"block_size": 1048576},
    "autotuning": {"enabled": False},
    "bf16": {"enabled": True},
    "checkpoint": {"tag_validation": "Warn"},
    "comms_logger": {"enabled": False},
    "communication_data_type": "fp32",
    "csv_monitor": {"enabled": False},
    "data_efficiency": {"enabled": False},
    "data_types": {"grad_accum_dtype": "fp32"},
    "dump_state": False,
    "flops_profiler": {"enabled": False},
    "fp16": {"enabled": False},
    "gradient_clipping": 1.0,
    "gradient_predivide_factor": 1.0,
    "prescale_gradients": False,
    "sequence_parallel_size": 1,
    "steps_per_print": 10,
    "tensorboard": {"enabled": False},
    "wall_clock_breakdown": False,
    "wandb": {"enabled": False},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
}


@pytest.fixture
def check_settings():
    from mftcoder.engine.settings import check_settings

    return check_settings


@pytest.fixture
def problems(check_settings):
    def found(**settings):
        with pytest.raises(MftcoderError) as caught:
            check_settings(PLAIN | settings)
        return str(caught.value).splitlines()

    return found


def test_all_that_deepspeed_documents_passes(check_settings):
    check_settings(PLAIN | DOCUMENTED)


@pytest.mark.parametrize("key", DOCUMENTED)
def test_each_key_that_deepspeed_documents_is_known_alone(check_settings, key):
    check_settings(PLAIN | {key: DOCUMENTED[key]})


def test_a_typing_error_in_any_section_is_named_with_the_section(problems):
    assert problems(zero_optimization={"stag": 2}, bf16={"enabled": "perhaps"}, tensorboard={"folder": "x"}) == [
        "deepspeed: zero_optimization.stag: unknown key; found 2.",
        'deepspeed: bf16.enabled: Input should be a valid boolean, unable to interpret input; found "perhaps".',
        'deepspeed: tensorboard.folder: unknown key; found "x".',
    ]


def test_a_key_that_deepspeed_never_looks_for_is_unknown(problems):
    assert problems(zero_optimisation={"stage": 2}, qqq=1) == [
        'deepspeed: zero_optimisation: unknown key; did you mean "zero_optimization"?',
        "deepspeed: qqq: unknown key. Delete it.",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"communication_data_type": "fp99"}, "fp99"),
        ({"flops_profiler": {"enabled": "maybe"}}, "bool"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "simultaneously"),
        ({"elasticity": {"enabled": True}}, "elasticity"),
    ],
)
def test_whatever_else_the_parser_stumbles_over_is_one_line(problems, settings, message):
    (line,) = problems(**settings)
    assert line.startswith("deepspeed: ")
    assert message in line


def test_deprecated_names_pass_without_a_word_and_the_logger_is_left_as_it_was(check_settings):
    logger, said = logging.getLogger("DeepSpeed"), []
    logger.setLevel(logging.WARNING)
    handler = logging.Handler()
    handler.emit = said.append
    logger.addHandler(handler)
    try:
        check_settings(PLAIN | {"zero_optimization": {"stage": 1, "cpu_offload": True}})
    finally:
        logger.removeHandler(handler)
    assert said == []
    assert logger.level == logging.WARNING


def test_float16_without_a_gpu_is_refused_before_anything_is_loaded():
    from mftcoder.training.run import load_engine

    config = parse(
        {"output_dir": "x", "model": {"path": "m", "dtype": "float16"}, "data": {"tasks": [{"name": "a", "path": "a"}]}}
    )
    with pytest.raises(MftcoderError, match=r'model\.dtype: "float16" trains on a GPU only'):
        load_engine(config, {}, Group())
