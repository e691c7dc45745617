"""How far CoBa's weights on a small probe are from those on full validation, and what each probe costs.

A small model is trained under uniform weights, and at every step the loss of every validation row is recorded, once per
seed. All else is arithmetic on the recording: a probe is a choice of steps and rows, and CoBa is replayed on it.

    python tools/fidelity.py FOLDER code=code.jsonl math=math.jsonl nl=nl.jsonl translation=translation.jsonl

FOLDER keeps the recordings; with them there the tables are printed at once.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from denominators import compare_denominators
from experiment import new_project

from mftcoder.config.schema import CoBa, Probe
from mftcoder.losses.weighting import TaskLosses, Vector, build
from mftcoder.tasks import TaskSet
from mftcoder.training.loop import take_step, upcoming_steps
from mftcoder.training.run import set_up
from mftcoder.training.state import Run

ROWS_PER_STEP = 8
ROWS_PER_TASK = 24  # of validation
DRAWS = 8  # probes per setting; rows are drawn anew for each
FORWARD_SHARE = 1 / 3  # of a training step's time that its forward pass takes

PROBES = [  # (every_steps, size in global batches), by cost
    (20, 0.5),
    (10, 0.5),
    (20, 1.5),
    (10, 1.0),
    (5, 0.75),
    (10, 1.5),
    (20, 3.0),
    (40, 6.0),
    (10, 3.0),
    (20, 6.0),
    (5, 3.0),
    (10, 6.0),
    (1, 1.0),
]
HISTORIES = [(24, 12), (50, 20), (100, 20), (100, 40)]  # (window_steps, warmup_steps); the first are the paper's 2M, M


@dataclass(frozen=True)
class Recording:
    """The validation losses of R rows before each of T steps."""

    nll: Vector  # [T, R] nats, summed over the row's supervised tokens
    units: Vector  # [R] supervised tokens
    tasks: np.ndarray  # [R]

    @property
    def num_tasks(self) -> int:
        return int(self.tasks.max()) + 1

    def losses(self, rows: np.ndarray) -> Vector:
        """[T, K] nats: the tasks' means over ``rows``."""
        member = (self.tasks[rows, None] == np.arange(self.num_tasks)).astype(np.float64)
        return (self.nll[:, rows] @ member) / (self.units[rows] @ member)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the recordings; made if need be")
    parser.add_argument("tasks", nargs="+", metavar="NAME=FILE", help="a task's records, in any format")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--steps", type=int, default=250, metavar="N", help="of each run (default: 250)")
    arguments = parser.parse_args()
    files = {name: Path(file) for name, file in (task.split("=", 1) for task in arguments.tasks)}
    recordings = [recorded(arguments.folder, files, seed, arguments.steps) for seed in arguments.seeds]
    for window, warmup in HISTORIES:
        print_distances(recordings, window, warmup)
    print(
        f"\ndenominators, on Zipf shares of the rows, mean of {len(arguments.seeds)} seed(s); tasks: {', '.join(files)}"
    )
    parts = [json.loads((arguments.folder / f"denominators-{seed}.json").read_text()) for seed in arguments.seeds]
    for name in ("step", "epoch"):
        weights = np.mean([part[f"{name}_weights"] for part in parts], axis=0)
        noise = np.mean([part[f"{name}_noise"] for part in parts])
        print(f"  {name:5}  weights {np.round(weights, 3)}  variance of the gradient {noise:.2f} x its mean squared")


def recorded(folder: Path, files: dict[str, Path], seed: int, num_steps: int) -> Recording:
    """The recording of ``seed``, made unless it lies in ``folder``; beside it what is measured of the denominators."""
    path = folder / f"seed-{seed}.npz"
    if not path.exists():
        from mftcoder.engine.deepspeed import process_group

        config = new_project(
            folder / f"seed-{seed}",
            files,
            sequence_length=128,
            vocabulary=2048,
            hidden_size=128,
            layers=4,
            validation_fraction=0.2,
            seed=seed,
            training={
                "per_device_train_batch_size": ROWS_PER_STEP,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "max_steps": num_steps,
            },
        )
        Path(config.output_dir).mkdir(exist_ok=True)
        with process_group() as group:
            run = set_up(config, group, None)
            made = record(run)
            np.savez(path, nll=made.nll, units=made.units, tasks=made.tasks)
            (folder / f"denominators-{seed}.json").write_text(json.dumps(compare_denominators(run)))
    return Recording(**np.load(path))


def record(run: Run) -> Recording:
    """Train to the end, and look at the validation rows before every step."""
    loader, rows = run.validation
    chosen = [(task, row) for task, row in rows if row < ROWS_PER_TASK]
    batches = list(loader.deal(chosen, 32))
    nll = []
    for step_batches in upcoming_steps(run):
        run.step_began = time.perf_counter()
        nll.append(torch.cat(list(row_sums(run, batches))).numpy())
        take_step(run, step_batches)
    units = [loader.tasks[task][row].supervised.sum() for task, row in chosen]
    return Recording(np.stack(nll), np.array(units, np.float64), np.array([task for task, _ in chosen]))


@torch.no_grad()
def row_sums(run: Run, batches: list) -> Iterator[torch.Tensor]:
    """[B] of each batch: the NLL of its rows, dropout off."""
    run.engine.train(False)
    for batch in batches:
        num_rows, width = batch.input_ids.shape
        nll, *_ = run.engine(batch)
        yield nll.double().new_zeros(num_rows).index_add(0, batch.supervised // width, nll.double())
    run.engine.train(True)


def print_distances(recordings: list[Recording], window: int, warmup: int) -> None:
    """The table: mean over seeds, draws, steps from ``warmup`` on and tasks of |weight - full validation's|."""
    num_batches = len(recordings[0].units) / ROWS_PER_STEP
    print(f"\nwindow_steps {window}, warmup_steps {warmup}; full validation: {num_batches:g} global batches every step")
    print(f"  {'probe':44}{'cost':>8}  distance (per seed)")
    everything = [coba_weights(each, window, warmup, 1, np.arange(len(each.units))) for each in recordings]

    def line(name: str, cost: float, weights: list[list[Vector]]) -> None:
        distances = [
            float(np.mean([np.abs(one - full)[warmup:].mean() for one in draws]))
            for draws, full in zip(weights, everything, strict=True)
        ]
        shown = " ".join(f"{distance:.3f}" for distance in distances)
        print(f"  {name:44}{1 + cost:7.3f}x  {np.mean(distances):.3f} ({shown})")

    line("none: uniform weights", 0.0, [[np.full_like(full, 1 / full.shape[1])] for full in everything])
    name = "paper: one cyclic mini-batch, every step"
    line(name, FORWARD_SHARE, [[paper_weights(each, window, warmup)] for each in recordings])
    for every, size in PROBES:
        rows = round(size * ROWS_PER_STEP)
        if rows < recordings[0].num_tasks:
            continue
        draws = [
            [coba_weights(each, window, warmup, every, probe_rows(each, rows, draw)) for draw in range(DRAWS)]
            for each in recordings
        ]
        name = f"efficient: {size:g} global batches every {every}"
        line(name, FORWARD_SHARE * rows / (ROWS_PER_STEP * every), draws)


def probe_rows(recording: Recording, num_rows: int, draw: int) -> np.ndarray:
    """``num_rows`` rows, equally many of each task."""
    order = np.random.default_rng(draw).permutation(len(recording.units))
    each = num_rows // recording.num_tasks
    return np.concatenate([order[recording.tasks[order] == task][:each] for task in range(recording.num_tasks)])


def coba_weights(recording: Recording, window: int, warmup: int, every: int, rows: np.ndarray) -> Vector:
    """[T, K]: the weights of every step when ``rows`` are looked at ``every`` steps."""
    losses = recording.losses(rows)
    settings = CoBa(type="coba", window_steps=window, warmup_steps=warmup, probe=Probe(every_steps=every))
    return _weights(settings, {step: (losses[step], 0) for step in range(0, len(losses), every)}, len(losses))


def paper_weights(recording: Recording, window: int, warmup: int) -> Vector:
    """[T, K]: the weights of the preset "paper", which looks at one of the mini-batches before every step."""
    num_batches = len(recording.units) // ROWS_PER_STEP
    parts = [recording.losses(np.arange(first, len(recording.units), num_batches)) for first in range(num_batches)]
    settings = CoBa(type="coba", preset="paper", window_steps=window, warmup_steps=warmup)
    looks = {step: (parts[step % num_batches][step], step % num_batches) for step in range(len(recording.nll))}
    return _weights(settings, looks, len(looks), baselines=[part[0] for part in parts])


def _weights(
    settings: CoBa, looks: dict[int, tuple[Vector, int]], num_steps: int, baselines: list[Vector] | None = None
) -> Vector:
    everyone = np.ones(len(looks[0][0]))
    tasks = TaskSet(tuple(f"task-{number}" for number in range(len(everyone))))
    weighting = build(settings, tasks, num_mini_batches=len(baselines or [0]))
    for number, first in enumerate(baselines or []):
        weighting.observe("baseline", 0, TaskLosses(first, everyone > 0, mini_batch=number))
    weights = []
    for step in range(num_steps):
        if step in looks:
            values, mini_batch = looks[step]
            weighting.observe("validation", step, TaskLosses(values, everyone > 0, mini_batch=mini_batch))
        weights.append(weighting.weights(step, everyone))
    return np.array(weights)


if __name__ == "__main__":
    main()
