"""The user's DeepSpeed JSON and the training config become one: theirs passes through, what is ours is filled in.

Reading and merging only; ``mftcoder.engine.deepspeed`` runs the result.
"""

import copy
from collections.abc import Iterator
from typing import Any

from mftcoder.config.load import read_json
from mftcoder.config.problems import show
from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError

DEFAULTS = {
    "steps_per_print": 2**31 - 1,  # metrics.jsonl says it all
    "wall_clock_breakdown": False,
    "zero_force_ds_cpu_optimizer": False,  # the engine's AdamW is torch's, also where its state is offloaded
}
SECTIONS = ("zero_optimization", "bf16", "fp16", "optimizer", "optimizer.params")


def resolve(config: Config, *, world_size: int, hidden_size: int) -> dict[str, Any]:
    """What ``deepspeed.initialize`` gets: the user's JSON with our values in the place of every "auto".

    ``optimizer`` and ``scheduler`` are left out: the engine makes both from the training config. ``hidden_size`` is the
    model's; it gives ZeRO's bucket sizes by the rule of transformers. Raises MftcoderError that lists every
    contradiction with the training config, naming both keys and both values.
    """
    if isinstance(config.deepspeed, str):
        where, resolved = config.deepspeed, read_json(config.deepspeed)
    else:
        where, resolved = "deepspeed", copy.deepcopy(config.deepspeed)
    problems = _malformed(resolved)
    if not problems:
        for key, value, source in _owned(config, world_size):
            problems += _settle(resolved, key, value, source)
        problems += _optimizer_extras(resolved.pop("optimizer"))
        problems += _schedule(config, resolved.pop("scheduler", "auto"))
        problems += _unsupported(config, resolved, world_size)
        _fill_bucket_sizes(resolved.get("zero_optimization", {}), hidden_size)
        problems += [
            f'{key} is "auto", but nothing decides it. Give a value, or delete it.' for key in _autos(resolved)
        ]
    if problems:
        raise MftcoderError("\n".join(f"{where}: {problem}" for problem in problems))
    if not config.training.optim.startswith("adamw_torch"):
        resolved.setdefault("zero_allow_untested_optimizer", True)  # DeepSpeed knows those of bitsandbytes not by name
    return DEFAULTS | resolved


def zero_stage(resolved: dict[str, Any]) -> int:
    """The ZeRO stage, 0 to 3, of a resolved DeepSpeed config."""
    return resolved.get("zero_optimization", {}).get("stage", 0)


def offloads_to_nvme(resolved: dict[str, Any]) -> bool:
    """Whether ZeRO keeps a part of the state in files."""
    zero = resolved.get("zero_optimization", {})
    return any(zero.get(part, {}).get("device") == "nvme" for part in ("offload_optimizer", "offload_param"))


def _owned(config: Config, world_size: int) -> Iterator[tuple[str, Any, str]]:
    """Key in DeepSpeed's JSON, our value, and where ours comes from."""
    training, model = config.training, config.model
    micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    yield "train_micro_batch_size_per_gpu", micro, f"training.per_device_train_batch_size is {micro}"
    yield "gradient_accumulation_steps", accumulation, f"training.gradient_accumulation_steps is {accumulation}"
    parts = training.sequence_parallel_size
    yield "sequence_parallel_size", parts, f"training.sequence_parallel_size is {parts}"
    rows, ranks = micro * accumulation * world_size // parts, world_size if parts == 1 else f"{world_size} / {parts}"
    yield "train_batch_size", rows, f"micro-batch × accumulation × ranks is {micro} × {accumulation} × {ranks}"
    yield "gradient_clipping", training.max_grad_norm, f"training.max_grad_norm is {training.max_grad_norm:g}"
    yield "bf16.enabled", model.dtype == "bfloat16", f'model.dtype is "{model.dtype}"'
    yield "fp16.enabled", model.dtype == "float16", f'model.dtype is "{model.dtype}"'
    yield "optimizer.type", "AdamW", "the optimizer is AdamW"
    yield "optimizer.params.lr", training.learning_rate, f"training.learning_rate is {training.learning_rate:g}"
    betas = [training.adam_beta1, training.adam_beta2]
    yield "optimizer.params.betas", betas, f"training.adam_beta1 and adam_beta2 are {show(betas)}"
    yield "optimizer.params.eps", training.adam_epsilon, f"training.adam_epsilon is {training.adam_epsilon:g}"
    yield "optimizer.params.weight_decay", training.weight_decay, f"training.weight_decay is {training.weight_decay:g}"


def _settle(resolved: dict[str, Any], dotted: str, value: Any, source: str) -> Iterator[str]:
    """Put our ``value`` where ``resolved`` has none or "auto"; a problem if it has another."""
    *sections, key = dotted.split(".")
    node = resolved
    for section in sections:
        if node.get(section, "auto") == "auto":
            node[section] = {}
        node = node[section]
    theirs = node.get(key, "auto")
    if theirs == "auto":
        node[key] = value
    elif theirs != value:
        yield f'{dotted} is {show(theirs)}, but {source}. Make them equal, or write "auto".'


def _malformed(resolved: dict[str, Any]) -> list[str]:
    """Sections that are no objects, a ZeRO stage that does not exist, a name that DeepSpeed reads only at times."""
    problems = []
    for dotted in SECTIONS:
        section: Any = resolved
        for part in dotted.split("."):
            section = section.get(part, "auto") if isinstance(section, dict) else "auto"
        if section != "auto" and not isinstance(section, dict):
            problems.append(f"{dotted} must be an object; found {show(section)}.")
    zero = resolved.get("zero_optimization", {})
    if zero == "auto":
        problems.append('zero_optimization is "auto", but nothing decides it. Write {"stage": 0}, 1, 2 or 3.')
    elif isinstance(zero, dict) and zero.get("stage", 0) not in (0, 1, 2, 3):
        problems.append(f"zero_optimization.stage must be 0, 1, 2 or 3; found {show(zero['stage'])}.")
    if "bfloat16" in resolved:
        problems.append("bfloat16 is an old name, read only where bf16 is absent. Rename it to bf16.")
    return problems


def _optimizer_extras(optimizer: dict[str, Any]) -> Iterator[str]:
    known = {"lr", "betas", "eps", "weight_decay"}
    for key in optimizer["params"].keys() - known:
        yield f"optimizer.params.{key} would have no effect: the training config makes the optimizer. Delete it."


def _schedule(config: Config, scheduler: Any) -> Iterator[str]:
    if scheduler != "auto":
        ours = f'training.lr_scheduler_type is "{config.training.lr_scheduler_type}"'
        yield f'scheduler is {show(scheduler)}, but {ours}. Delete the section, or write "auto".'


def _unsupported(config: Config, resolved: dict[str, Any], world_size: int) -> Iterator[str]:
    """What would train wrongly, or does not run with these settings of ZeRO."""
    zero, lora, optim = resolved.get("zero_optimization", {}), config.model.lora, config.training.optim
    if world_size % (parts := config.training.sequence_parallel_size):
        yield f"training.sequence_parallel_size is {parts}, which does not divide the {world_size} ranks."
    if "data_parallel_size" in resolved:
        yield "data_parallel_size follows from the ranks and training.sequence_parallel_size. Delete it."
    checkpoint = resolved.get("checkpoint")
    if isinstance(checkpoint, dict) and "writer" in checkpoint:
        yield (
            "checkpoint.writer lets a save go on while training does, so that a checkpoint could be called complete "
            "that is not. Delete it."
        )
    if zero.get("stage") == 3 and lora and lora.dora and config.model.quantization:
        yield (
            "zero_optimization.stage is 3, but model.lora.dora needs the norms of whole weights, which it cannot read "
            "from partitions in 4 bits (model.quantization). Use stage 2, or set dora to false."
        )
    if "offload_optimizer" in zero and not optim.startswith("adamw_torch"):
        yield (
            f'zero_optimization.offload_optimizer moves the moments to the host, and training.optim is "{optim}", '
            'whose gain is on the GPU. Use "adamw_torch_fused", or delete the section.'
        )


def _fill_bucket_sizes(zero: dict[str, Any], hidden_size: int) -> None:
    sizes = {
        "reduce_bucket_size": hidden_size**2,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    zero.update({key: size for key, size in sizes.items() if zero.get(key) == "auto"})


def _autos(node: Any, dotted: str = "") -> Iterator[str]:
    """Keys that are still "auto"."""
    if node == "auto":
        yield dotted
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _autos(value, f"{dotted}.{key}".lstrip("."))
