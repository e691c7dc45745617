"""The rows that a run reads of its shards: which make up which step, and the loaders of each split."""

import math

import numpy as np

from mftcoder.config.schema import Config, Training
from mftcoder.data.loader import Loader, Schedule
from mftcoder.data.mixture import make_mixture
from mftcoder.data.shards import Shards
from mftcoder.distributed import Group
from mftcoder.losses.reductions import Unit
from mftcoder.losses.weighting import Vector
from mftcoder.training.probe import Probe, RowNumbers, make_probe
from mftcoder.training.sampling import WeightedSampling


def make_schedule(config: Config, shards: Shards, world_size: int) -> Schedule:
    """Which rows make up which step, on ``world_size`` ranks."""
    rows = {task.name: task.splits["train"].rows for task in shards.manifest.tasks}
    return Schedule(make_mixture(config.data.sampling, rows, config.seed), rows_per_step(config.training, world_size))


def rows_per_step(training: Training, world_size: int) -> int:
    """Of all ranks together; those that share their rows count once."""
    per_rank = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return per_rank * (world_size // training.sequence_parallel_size)


def total_steps(config: Config, schedule: Schedule) -> int:
    """The step that a run ends with."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(training.num_train_epochs * schedule.steps_per_epoch)


def expected_units(shards: Shards, unit: Unit, schedule: Schedule) -> Vector:
    """[K]: the units of a mean step, however often its epochs hold a task's rows."""
    train = [shards.manifest.task(name).splits["train"] for name in shards.tasks]
    units = np.array([part.supervised_tokens if unit == "token" else part.samples for part in train], np.float64)
    return units * schedule.mixture.passes_per_epoch / schedule.steps_per_epoch


def weighted_sampling(config: Config, schedule: Schedule) -> WeightedSampling | None:
    """What draws the rows of each step by the tasks' weights, where the config says so."""
    settings, mixture = config.data.sampling, schedule.mixture
    if settings.type != "weighted":
        return None
    return WeightedSampling(mixture.rows_per_task, schedule.rows_per_step, settings.share, config.seed)


def make_loader(config: Config, shards: Shards, split: str, group: Group) -> Loader:
    """This rank's loader of all tasks' rows of ``split``: "train", "validation" or "probe"."""
    packing = config.data.packing
    return Loader(
        tasks=[shards.rows(task, split) for task in shards.tasks],
        rank=group.data_rank,
        num_ranks=group.data_size,
        isolate_samples=packing.isolate_samples,
        length=config.data.sequence_length if packing.mode == "pad_to_max" else None,
    )


def validation_rows(config: Config, shards: Shards, group: Group) -> tuple[Loader, RowNumbers]:
    """All rows that a validation looks at, and their loader."""
    loader = make_loader(config, shards, "validation", group)
    return loader, [(task, row) for task, rows in enumerate(loader.tasks) for row in range(len(rows))]


def probe_rows(config: Config, shards: Shards, rows_per_step: int, group: Group) -> Probe | None:
    """The probe of the config's weighting, by the size of this run's steps; None if it watches no validation."""
    train = [shards.manifest.task(name).splits["train"] for name in shards.tasks]
    tokens_per_row = sum(part.tokens for part in train) / sum(part.rows for part in train)
    loader = make_loader(config, shards, "probe", group)
    return make_probe(
        config.loss.weighting, loader, rows_per_step=rows_per_step, tokens_per_step=rows_per_step * tokens_per_row
    )
