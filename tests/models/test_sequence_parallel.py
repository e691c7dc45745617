"""Sequence parallelism is refused, with the remedy, where it would train something else."""

import pytest
from transformers import LlamaConfig, MistralConfig, MixtralConfig

from mftcoder.config import parse
from mftcoder.errors import MftcoderError
from mftcoder.models.sequence_parallel import check_sequence_parallel

LLAMA = LlamaConfig(num_attention_heads=8, num_key_value_heads=2)


def config_of(parts: int, packing: str = "pad", **sections: dict):
    data = {"tasks": [{"name": "a", "path": "a.jsonl"}], "packing": {"mode": packing}, "sequence_length": 4096}
    sections["training"] = {"sequence_parallel_size": parts} | sections.get("training", {})
    return parse({"output_dir": "x", "model": {"path": "m"} | sections.pop("model", {}), "data": data, **sections})


@pytest.mark.parametrize(
    ("parts", "packing", "backend"), [(8, "pad", "sdpa"), (2, "pack", "varlen"), (1, "pack", "sdpa")]
)
def test_what_works_passes(parts, packing, backend):
    check_sequence_parallel(config_of(parts, packing), LLAMA, backend)


@pytest.mark.parametrize(
    ("parts", "packing", "model", "backend", "expected"),
    [
        (3, "pad", LLAMA, "sdpa", "must divide the model's 8 attention heads; found 3."),
        (
            4,
            "pad",
            LlamaConfig(hidden_size=48, num_attention_heads=24, num_key_value_heads=6),
            "sdpa",
            "6 key and value heads, or be",
        ),
        (
            2,
            "pack",
            LLAMA,
            "sdpa",
            'would see each other. Set data.packing.mode to "pad", or model.attention to varlen',
        ),
        (2, "pad", LLAMA, "eager", "does not work with attention eager. Set model.attention to varlen or"),
        (2, "pad", MistralConfig(sliding_window=1024), "sdpa", "sliding window of 1024 tokens"),
        (2, "pad", MixtralConfig(), "sdpa", "routers would be balanced over parts of rows"),
    ],
)
def test_what_would_train_something_else_is_refused(parts, packing, model, backend, expected):
    with pytest.raises(MftcoderError, match="sequence_parallel_size: ") as caught:
        check_sequence_parallel(config_of(parts, packing), model, backend)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training": {"neftune_noise_alpha": 5}}, "training.neftune_noise_alpha: does not work"),
        ({"training": {"torch_compile": True}}, "training.torch_compile: does not work"),
        ({"loss": {"weighting": {"type": "gradnorm"}}}, "loss.weighting: gradnorm does not work"),
    ],
)
def test_settings_that_need_whole_rows_are_refused(changes, key):
    with pytest.raises(MftcoderError, match=key):
        config_of(2, **changes)
