"""What sequence parallelism (``engine.ulysses``) asks of a model and of the rest of the config."""

from collections.abc import Iterator

from transformers import PretrainedConfig

from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.models.router import RouterLoss

WITH_BORDERS = ("varlen", "flash_attention_2", "flash_attention_3")


def check_sequence_parallel(config: Config, model: PretrainedConfig, backend: str | None = None) -> None:
    """MftcoderError if ``training.sequence_parallel_size`` > 1 does not go with ``model``, or with its attention.

    Args:
        config: the run's.
        model: the model's.
        backend: what computes attention; None: not known yet.
    """
    if config.training.sequence_parallel_size > 1 and (problems := list(_problems(config, model, backend))):
        raise MftcoderError("\n".join(f"training.sequence_parallel_size: {problem}" for problem in problems))


def _problems(config: Config, model: PretrainedConfig, backend: str | None) -> Iterator[str]:
    parts, text = config.training.sequence_parallel_size, model.get_text_config()
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    if heads % parts:
        yield f"must divide the model's {heads} attention heads; found {parts}."
    elif key_heads % parts and parts % key_heads:
        yield f"must divide the model's {key_heads} key and value heads, or be divided by them; found {parts}."
    if RouterLoss.of(model, config.model.router_loss_coefficient):
        yield (
            "a mixture's routers would be balanced over parts of rows. Set model.router_loss_coefficient to 0, or "
            "sequence_parallel_size to 1."
        )
    if backend is None or backend in WITH_BORDERS:
        return
    if backend != "sdpa":
        yield f"does not work with attention {backend}. Set model.attention to {' or '.join(WITH_BORDERS)}, or sdpa."
    packing = config.data.packing
    if packing.mode == "pack" and packing.isolate_samples:
        yield (
            f"with attention {backend}, samples of a packed row would see each other. Set data.packing.mode to "
            f'"pad", or model.attention to {" or ".join(WITH_BORDERS)}.'
        )
    window = getattr(text, "sliding_window", None)
    sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ["sliding_attention"])
    if window and sliding and window < config.data.sequence_length:
        yield (
            f"attention {backend} would drop the model's sliding window of {window} tokens. Set model.attention to "
            f"{' or '.join(WITH_BORDERS)}, or data.sequence_length to at most {window}."
        )
