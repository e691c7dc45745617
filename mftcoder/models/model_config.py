"""The config.json of a base model as a run takes it: its text part, its RoPE scaled if the settings say so."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mftcoder.config.schema import Config, Model, RopeScaling
from mftcoder.errors import MftcoderError
from mftcoder.models.families import ADAPTERS, adapter_of

LENGTHS = ("max_position_embeddings", "max_seq_len", "seq_length", "model_max_length")  # what configs call it
TEXT_PART = {r"^(model\.)?language_model\.(model\.)?": "model."}  # names of weights in a model of several parts


def load_config(settings: Model) -> PretrainedConfig:
    """The model's config.json; MftcoderError when there is none or it asks for code that was not allowed."""
    try:
        config = AutoConfig.from_pretrained(
            settings.path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:  # beside files and hub, checks of values by the library, and code of the model
        raise MftcoderError(_why_unreadable(settings, error)) from error
    config = _text_part(config, settings.path)
    if settings.rope_scaling:
        _scale_rope(config, settings.rope_scaling)
    return config


def is_text_part(settings: Model) -> bool:
    """Whether the folder holds a model of several parts, of which only the one for text is trained."""
    stored, _ = PretrainedConfig.get_config_dict(settings.path, revision=settings.revision)
    return stored.get("model_type") != load_config(settings).model_type


def maximum_length(config: PretrainedConfig) -> int | None:
    """The longest sequence the model was made for, if its config says."""
    text = config.get_text_config()
    return next((value for name in LENGTHS if isinstance(value := getattr(text, name, None), int)), None)


def check_length(config: Config, model: PretrainedConfig) -> None:
    """MftcoderError if rows are longer than the model can take."""
    longest, length, rope = maximum_length(model), config.data.sequence_length, _rope(model)
    if longest and length > longest:
        remedy = ", or extend the model by model.rope_scaling" if rope and config.model.rope_scaling is None else ""
        raise MftcoderError(
            f"data.sequence_length: must be at most {longest} (the model's longest sequence); found {length}. "
            f"Lower it and tokenize again{remedy}."
        )
    original = rope.get("original_max_position_embeddings") or longest
    if rope.get("rope_type") == "dynamic" and original and length > original:
        raise MftcoderError(
            f"data.sequence_length: {length} is beyond the {original} tokens from which on the model's RoPE, "
            '"dynamic", depends on the longest sample of a micro-batch. Lower it and tokenize again.'
        )


def check_isolation(config: Config, model: PretrainedConfig) -> None:
    """MftcoderError if rows are to be packed with isolation and the family is known not to isolate."""
    packing, adapter = config.data.packing, adapter_of(model)
    if packing.mode == "pack" and packing.isolate_samples and adapter.isolation == "none":
        raise MftcoderError(
            f"data.packing.isolate_samples: packed samples of {adapter.families} ({model.model_type}) see each other. "
            'Use packing mode "pad", or isolate_samples false.'
        )


def _why_unreadable(settings: Model, error: Exception) -> str:
    try:
        stored, _ = PretrainedConfig.get_config_dict(settings.path, revision=settings.revision)
    except Exception:
        stored = {}
    kind = stored.get("model_type")
    if stored and kind not in CONFIG_MAPPING and not settings.trust_remote_code:
        name = f"{ADAPTERS[kind].families} ({kind})" if kind in ADAPTERS else f'of the type "{kind}"'
        if "auto_map" in stored:
            return (
                f'model.path: "{settings.path}" is {name}, for which transformers has no class: its code comes with '
                "the model. Read that code; if you trust it, set model.trust_remote_code to true."
            )
        return f'model.path: "{settings.path}" is {name}, for which transformers has no class, and brings no code.'
    return f'model.path: cannot read a model config from "{settings.path}": {" ".join(str(error).split())}'


def _text_part(config: PretrainedConfig, path: str) -> PretrainedConfig:
    text = config.get_text_config()
    if text is config:
        return config
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise MftcoderError(
            f'model.path: "{path}" is a model of several parts ({config.model_type}), and transformers has no class '
            "for its text part alone. Take a text model."
        )
    if hasattr(config, "quantization_config"):
        text.quantization_config = config.quantization_config
    text.dtype = text.dtype or config.dtype
    return text


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """The RoPE parameters; of a family with several kinds of layers those of full attention; empty without RoPE."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return parameters.get("full_attention", parameters)


def _scale_rope(config: PretrainedConfig, scaling: RopeScaling) -> None:
    """Change ``config`` in place."""
    rope, longest = _rope(config), maximum_length(config)
    kind = rope.get("rope_type", "default")
    if not rope or not longest:
        raise MftcoderError(f"model.rope_scaling: a {config.model_type} has no RoPE to scale. Delete it.")
    if kind not in ("default", scaling.type):
        raise MftcoderError(
            f'model.rope_scaling: the model\'s RoPE is scaled already ("{kind}", for {longest} tokens). Delete it, or '
            f'choose the type "{kind}".'
        )
    original = rope.get("original_max_position_embeddings") or longest
    rope.update(rope_type=scaling.type, factor=scaling.factor)
    if scaling.type in ("yarn", "llama3"):
        rope["original_max_position_embeddings"] = original
    if scaling.type == "llama3":
        rope.setdefault("low_freq_factor", 1.0)
        rope.setdefault("high_freq_factor", 4.0)
    if scaling.theta is not None:
        rope["rope_theta"] = scaling.theta
    config.max_position_embeddings = round(original * scaling.factor)
