"""What a checkpoint and the run that resumes it must agree on, and what may differ: how many ranks share the work.

On another number of ranks, or with other ZeRO settings, a run goes on with the same rows in the same steps. The sums of
a step are then made in another order, and dropout is drawn otherwise: without dropout the run equals the uninterrupted
one up to rounding, not bit for bit.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mftcoder import __version__
from mftcoder.config.deepspeed import offloads_to_nvme
from mftcoder.config.schema import Config
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.tasks import TaskSet
from mftcoder.training.checkpoint import Checkpoint, reading

# Keys that do not touch the trajectory, or that are compared by what they lead to (rows per step, data fingerprint).
FREE: Any = {  # as pydantic takes it
    "output_dir": True,
    "logging": True,
    "export": True,
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
        "agreement_steps",
        "watchdog_seconds",
    },
}
MOST_SHOWN = 4096  # ranks, or rows of a micro-batch, that an error suggests
FREE_OF_DEEPSPEED = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
SHARING = (  # how a run is divided among ranks: may differ
    "world_size",
    "data_size",
    "training.sequence_parallel_size",
    "deepspeed.sequence_parallel_size",
    "deepspeed.zero_optimization",
)


def identity(
    config: Config,
    settings: Mapping[str, Any],
    fingerprint: str,
    tasks: TaskSet,
    rows_per_step: int,
    group: Group,
    started_on: int | None,
) -> dict[str, Any]:
    """What the trajectory of a run depends on, as JSON; part of every checkpoint.

    Args:
        settings: the resolved DeepSpeed config.
        fingerprint: of the shards.
        started_on: ``group.data_size`` of the run's first start, by which the config's batch sizes make
            ``rows_per_step``; None: this is the first.
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
        "world_size": group.size,
        "data_size": group.data_size,
        "started_on": started_on or group.data_size,
        "config": config.model_dump(mode="json", exclude=FREE),
        "deepspeed": {key: value for key, value in settings.items() if key not in FREE_OF_DEEPSPEED},
    }


def with_rows_of(config: Config, checkpoint: Checkpoint, data_size: int) -> Config:
    """``config`` with as much accumulation as gives a step the rows that it had in ``checkpoint``.

    ``data_size`` is that of the group: its ranks, or sets of ranks that share their rows.

    It is left as it is where it seems to be meant, on the same ranks as before. MftcoderError if no number of
    micro-batches makes these rows.
    """
    with reading(checkpoint):
        return _sharing_rows(config, checkpoint, data_size)


def _sharing_rows(config: Config, checkpoint: Checkpoint, data_size: int) -> Config:
    then, training = checkpoint.state, config.training
    rows, micro = then["rows_per_step"], training.per_device_train_batch_size
    as_at_start = micro * training.gradient_accumulation_steps * then["started_on"] == rows
    if data_size == then["data_size"] and not as_at_start:
        return config
    if rows % (micro * data_size):
        ranks = [str(n) for n in range(1, min(rows, MOST_SHOWN) + 1) if rows % (micro * n) == 0]
        sizes = [str(n) for n in range(1, min(rows, MOST_SHOWN) + 1) if rows % (data_size * n) == 0]
        remedies = [f"run on {_any_of(ranks)} rank(s)"] if ranks else []
        remedies += [f"set training.per_device_train_batch_size to {_any_of(sizes)}"] if sizes else []
        raise MftcoderError(
            f"{checkpoint.path}: its steps have {rows} rows, which {data_size} ranks cannot share in micro-batches of "
            f"{micro} (training.per_device_train_batch_size). {', or '.join(remedies).capitalize()}."
        )
    accumulation = rows // (micro * data_size)
    if accumulation != training.gradient_accumulation_steps:
        print(f"training.gradient_accumulation_steps: {accumulation}, so that {data_size} rank(s) share {rows} rows")
    training = training.model_copy(update={"gradient_accumulation_steps": accumulation})
    return config.model_copy(update={"training": training})


def _any_of(numbers: list[str]) -> str:
    return ", ".join(numbers[:-1]) + (" or " if numbers[:-1] else "") + numbers[-1]


def check_identity(checkpoint: Checkpoint, now: Mapping[str, Any]) -> str | None:
    """How ``now`` divides the run among ranks other than ``checkpoint``, for the user; None: in the same way.

    MftcoderError that lists what differs and may not, with both values, or if the state cannot be divided anew.
    """
    with reading(checkpoint):
        return _checked(checkpoint, now)


def _checked(checkpoint: Checkpoint, now: Mapping[str, Any]) -> str | None:
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
    differing = [f"{key} was {a}, now {b}" for key, a, b in _all_differences(then, now) if not key.startswith(SHARING)]
    if differing:
        raise MftcoderError(
            f"{checkpoint.path} cannot be resumed with these settings: {'; '.join(differing)}. "
            "Restore them, or choose a new output_dir."
        )
    return _shared_anew(checkpoint, now)


def _shared_anew(checkpoint: Checkpoint, now: Mapping[str, Any]) -> str | None:
    then = checkpoint.state
    differing = [f"{key} was {a}, now {b}" for key, a, b in _all_differences(then, now) if key.startswith(SHARING)]
    if not differing:
        return None
    obstacle = None
    if "8bit" in now["config"]["training"]["optim"] or "paged" in now["config"]["training"]["optim"]:
        obstacle = f'training.optim is "{now["config"]["training"]["optim"]}", whose moments belong to a rank\'s part'
    if offloads_to_nvme(then["deepspeed"]) or offloads_to_nvme(now["deepspeed"]):
        obstacle = "state that is offloaded to NVMe lies in files of its rank"
    if obstacle:
        raise MftcoderError(
            f"{checkpoint.path} cannot be divided anew ({'; '.join(differing)}): {obstacle}. Restore these settings, "
            'or begin a new run with its weights alone ("resume" in the config).'
        )
    return "; ".join(differing)


def _all_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for part in now:
        yield from _differences(part, then[part], now[part])


def _differences(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted(then.keys() | now.keys()):
            yield from _differences(f"{key}.{name}".removeprefix("config."), then.get(name), now.get(name))
    elif then != now:
        yield key, then, now
