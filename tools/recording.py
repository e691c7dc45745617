"""The runs that fidelity.py measures on, and their recordings."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import new_project

from mftcoder.data.batch import Batch
from mftcoder.data.loader import Schedule
from mftcoder.distributed import Group
from mftcoder.losses.weighting import Vector, parse
from mftcoder.training.loop import take_step, upcoming_steps
from mftcoder.training.run import set_up
from mftcoder.training.state import Run
from mftcoder.training.watch import look_at_probe, losses_on

ROWS_PER_STEP = 8
ROWS_PER_TASK = 24  # of validation
FEW_ROWS = 4  # that a task which is to overfit trains on


@dataclass(frozen=True)
class Recording:
    """The validation losses of R rows before each of T steps."""

    nll: Vector  # [T, R] nats, summed over the row's supervised tokens
    units: Vector  # [R] supervised tokens
    tasks: np.ndarray  # [R]

    @property
    def num_tasks(self) -> int:
        return int(self.tasks.max()) + 1

    @property
    def all_rows(self) -> np.ndarray:
        return np.arange(len(self.units))

    def losses(self, rows: np.ndarray) -> Vector:
        """[T, K] nats: the tasks' means over ``rows``."""
        member = (self.tasks[rows, None] == np.arange(self.num_tasks)).astype(np.float64)
        return (self.nll[:, rows] @ member) / (self.units[rows] @ member)


@dataclass(frozen=True)
class FewRows(Schedule):
    """A schedule in which one task has no more than its first FEW_ROWS rows, which come again and again."""

    overfits: int = 0

    def rows(self, step: int) -> list[tuple[int, int]]:
        """As of Schedule, with other rows of that task."""
        return [(task, row % FEW_ROWS if task == self.overfits else row) for task, row in super().rows(step)]


@dataclass(frozen=True)
class Study:
    """Runs over the same tasks, one per seed and weighting. What they gave is kept in ``folder`` and not made again."""

    folder: Path
    files: Mapping[str, Path]  # task name -> records
    shape: Mapping[str, int]  # of the model, and of rows
    num_steps: int
    overfits: str | None  # the task that trains on few rows
    group: Group

    def recording(self, seed: int) -> Recording:
        """Of a run under uniform weights."""
        path = self.folder / f"{self.overfits or 'none'}-{seed}.npz"
        if not path.exists():
            made = record(self.new_run(path.with_suffix(""), seed, {"type": "uniform"}))
            np.savez(path, nll=made.nll, units=made.units, tasks=made.tasks)
        return Recording(**np.load(path))

    def outcome(self, seed: int, weighting: Mapping[str, Any]) -> Vector:
        """[2, K] nats: the validation losses before and after a run with ``weighting``."""
        settings = "-".join(str(value) for value in weighting.values())
        path = self.folder / f"{self.overfits or 'none'}-{seed}-{settings}.npy"
        if not path.exists():
            run = self.new_run(path.with_suffix(""), seed, weighting)
            before = losses_on(run, run.validation[0], validation_rows(run)).values
            look_at_probe(run)
            for batches in upcoming_steps(run):
                run.step_began = time.perf_counter()
                take_step(run, batches)
                if run.probe and run.step % run.probe.every_steps == 0:
                    look_at_probe(run)
            after = losses_on(run, run.validation[0], validation_rows(run)).values
            np.save(path, np.stack([before, after]))
        return np.load(path)

    def new_run(self, folder: Path, seed: int, weighting: Mapping[str, Any]) -> Run:
        """A run at its start, in ``folder``."""
        config = new_project(
            folder,
            self.files,
            validation_fraction=0.2,
            seed=seed,
            training={
                "per_device_train_batch_size": ROWS_PER_STEP,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "max_steps": self.num_steps,
            },
            **self.shape,
        )
        config = config.model_copy(update={"loss": config.loss.model_copy(update={"weighting": parse(weighting)})})
        Path(config.output_dir).mkdir(exist_ok=True)
        run = set_up(config, self.group, None)
        if self.overfits is not None:
            run.schedule = FewRows(run.schedule.mixture, ROWS_PER_STEP, run.tasks.id(self.overfits))
        return run


def validation_rows(run: Run) -> list[tuple[int, int]]:
    """The rows whose losses are recorded."""
    return [(task, row) for task, row in run.validation[1] if row < ROWS_PER_TASK]


def record(run: Run) -> Recording:
    """Train to the end, and look at the validation rows before every step."""
    loader, rows = run.validation[0], validation_rows(run)
    batches = list(loader.deal(rows, 32))
    nll = []
    for step_batches in upcoming_steps(run):
        run.step_began = time.perf_counter()
        nll.append(torch.cat(list(row_sums(run, batches))).numpy())
        take_step(run, step_batches)
    units = [loader.tasks[task][row].supervised.sum() for task, row in rows]
    return Recording(np.stack(nll), np.array(units, np.float64), np.array([task for task, _ in rows]))


@torch.no_grad()
def row_sums(run: Run, batches: list[Batch]) -> Iterator[torch.Tensor]:
    """[B] of each batch: the NLL of its rows, dropout off."""
    run.engine.train(False)
    for batch in batches:
        num_rows, width = batch.input_ids.shape
        nll, *_ = run.engine(batch)
        yield nll.double().new_zeros(num_rows).index_add(0, batch.supervised // width, nll.double())
    run.engine.train(True)
