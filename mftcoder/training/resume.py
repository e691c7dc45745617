"""What a checkpoint and the run that resumes it must agree on."""

from collections.abc import Iterator, Mapping
from typing import Any

from mftcoder import __version__
from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.tasks import TaskSet
from mftcoder.training.checkpoint import Checkpoint

# Keys that do not touch the trajectory, or that are compared by what they lead to (rows per step, data fingerprint).
FREE: Any = {  # as pydantic takes it
    "output_dir": True,
    "logging": True,
    "deepspeed": True,
    "data": True,
    "training": {
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "save_strategy",
        "save_steps",
        "save_best",
        "save_total_limit",
        "max_nonfinite_steps",
    },
}
FREE_OF_DEEPSPEED = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}


def identity(
    config: Config, settings: Mapping[str, Any], fingerprint: str, tasks: TaskSet, rows_per_step: int, world_size: int
) -> dict[str, Any]:
    """What the trajectory of a run depends on, as JSON; part of every checkpoint.

    Args:
        settings: the resolved DeepSpeed config.
        fingerprint: of the shards.
    """
    return {
        "mftcoder": __version__,
        "tasks": list(tasks),
        "data": {
            "fingerprint": fingerprint,
            "isolate_samples": config.data.packing.isolate_samples,
            "sampling": config.data.sampling.model_dump(mode="json"),
        },
        "rows_per_step": rows_per_step,
        "world_size": world_size,
        "config": config.model_dump(mode="json", exclude=FREE),
        "deepspeed": {key: value for key, value in settings.items() if key not in FREE_OF_DEEPSPEED},
    }


def check_identity(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    """MftcoderError that lists what differs between ``checkpoint`` and ``now``, with both values."""
    then = checkpoint.state
    if then["tasks"] != now["tasks"]:
        raise MftcoderError(
            f"{checkpoint.path} was trained on the tasks {', '.join(then['tasks'])}, but the config now has "
            f"{', '.join(now['tasks'])}. Restore data.tasks, or choose a new output_dir."
        )
    if then["data"]["fingerprint"] != now["data"]["fingerprint"]:
        raise MftcoderError(
            f"{checkpoint.path} was trained on shards {then['data']['fingerprint']}, but data.shards now holds "
            f"{now['data']['fingerprint']}. Point data.shards at the original, or choose a new output_dir."
        )
    differing = [f"{key} was {a}, now {b}" for part in now for key, a, b in _differences(part, then[part], now[part])]
    if differing:
        raise MftcoderError(
            f"{checkpoint.path} cannot be resumed with these settings: {'; '.join(differing)}. "
            "Restore them, or choose a new output_dir."
        )


def _differences(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted(then.keys() | now.keys()):
            yield from _differences(f"{key}.{name}".removeprefix("config."), then.get(name), now.get(name))
    elif then != now:
        yield key, then, now
