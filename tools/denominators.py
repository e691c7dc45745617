"""What ``loss.denominator`` changes: short runs with either on tasks of unequal sizes, and their gradients' noise.

Every run sees each row once, under uniform weights, so that the losses at its end tell what a task's weight was worth.

    python tools/denominators.py FOLDER code=code.jsonl math=math.jsonl nl=nl.jsonl translation=translation.jsonl

FOLDER keeps what was found; with it there the tables are printed at once.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import SMALL, new_project

from mftcoder.config.schema import Config, Uniform
from mftcoder.data.loader import Schedule
from mftcoder.data.mixture import Mixture
from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.engine.protocol import StepInfo
from mftcoder.losses.weighting import Vector, build
from mftcoder.training.loop import take_step, upcoming_steps
from mftcoder.training.run import set_up
from mftcoder.training.state import Run
from mftcoder.training.step import train_step
from mftcoder.training.watch import losses_on

ROWS_PER_STEP = 8
ROWS_PER_TASK = 96  # of validation
NOISE_STEPS = 100  # whose gradients are compared
MIXES = {  # rows of a task for each of the largest, by rank
    "Zipf": lambda rank: 1 / (rank + 1),
    "steep": lambda rank: 4.0**-rank,
}
DENOMINATORS = ("step", "epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of what is found; made if need be")
    parser.add_argument("tasks", nargs="+", metavar="NAME=FILE", help="a task's records, in any format")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], metavar="N", help="default: 0 1 2 3")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of each run (default: 300)")
    arguments = parser.parse_args()
    files = {name: Path(file) for name, file in (task.split("=", 1) for task in arguments.tasks)}
    from mftcoder.engine.deepspeed import process_group

    with process_group() as group:
        found = [results(arguments.folder, files, seed, arguments.steps, group) for seed in arguments.seeds]
    for mix in MIXES:
        show(mix, [one[mix] for one in found])


def results(folder: Path, files: dict[str, Path], seed: int, num_steps: int, group: Group) -> dict[str, Any]:
    """Mix -> denominator -> what ``outcome`` finds, of one seed; measured unless it lies in ``folder``."""
    path = folder / f"seed-{seed}.json"
    if not path.exists():
        training = {"per_device_train_batch_size": ROWS_PER_STEP, "learning_rate": 2e-3, "warmup_steps": 20}
        config = new_project(
            folder / f"seed-{seed}",
            files,
            validation_fraction=0.2,
            seed=seed,
            training={**training, "max_steps": num_steps},
            **SMALL,
        )
        made = {mix: {name: outcome(config, group, mix, name, seed) for name in DENOMINATORS} for mix in MIXES}
        path.write_text(json.dumps(made))
    return json.loads(path.read_text())


def outcome(config: Config, group: Group, mix: str, denominator: str, seed: int) -> dict[str, Any]:
    """After a run of one epoch, in which every seed makes another task the rarest.

    By rank of size [K]: the validation ``losses``, and the mean over steps of how much each task counted, ``weights``.
    ``clipped``: the share of steps whose gradient was clipped. ``noise``: of a step's gradient at the weights that the
    run ended with, the variance over the squared norm of the mean.
    """
    output_dir = Path(f"{config.output_dir}-{mix}-{denominator}")
    output_dir.mkdir(exist_ok=True)
    loss = config.loss.model_copy(update={"denominator": denominator})
    run = set_up(config.model_copy(update={"loss": loss, "output_dir": str(output_dir)}), group, None)
    ranks = (np.arange(len(run.tasks)) + seed) % len(run.tasks)
    parts = np.array([MIXES[mix](rank) for rank in ranks])
    sizes = tuple(int(size) for size in parts / parts.sum() * run.total_steps * ROWS_PER_STEP)
    run.schedule = Schedule(Mixture(sizes, config.seed), ROWS_PER_STEP)
    run.total_steps = sum(sizes) // ROWS_PER_STEP  # without the short last one
    run.expected_units = units_per_step(run) if denominator == "epoch" else None
    counted, clipped = np.zeros(len(sizes)), 0
    for batches in upcoming_steps(run):
        run.step_began = time.perf_counter()
        result = take_step(run, batches)
        counted += result.weights
        clipped += result.info.grad_norm > config.training.max_grad_norm
    loader, rows = run.validation
    losses = losses_on(run, loader, [(task, row) for task, row in rows if row < ROWS_PER_TASK]).values
    by_rank = np.argsort(ranks)
    run.metrics.close()
    return {
        "losses": losses[by_rank].tolist(),
        "weights": (counted / run.total_steps)[by_rank].tolist(),
        "clipped": clipped / run.total_steps,
        "noise": gradient_noise(run),
    }


def units_per_step(run: Run) -> Vector:
    """[K] of a mean step of the run's schedule."""
    units = [
        sum(rows[row].supervised.sum() for row in range(size))
        for rows, size in zip(run.train_loader.tasks, run.schedule.mixture.rows_per_task, strict=True)
    ]
    return np.array(units, np.float64) / run.total_steps


class GradientStatistics(LocalEngine):
    """Sums up the gradients of steps, and changes no weight."""

    total = torch.zeros(1, dtype=torch.float64)  # Σ g
    squares: float = 0.0  # Σ |g|²

    def step(self, learning_rate: float) -> StepInfo:
        """Take note of the gradient and forget it."""
        gradient = torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]).double()
        self.total = self.total + gradient
        self.squares += float(gradient @ gradient)
        self._optimizer.zero_grad()
        return StepInfo(float(gradient.norm()), skipped=False)


def gradient_noise(run: Run) -> float:
    """At the weights that ``run`` ended with, over steps of its epoch."""
    engine, num_steps = GradientStatistics(run.engine.model, run.config.training), min(NOISE_STEPS, run.total_steps)
    for number in range(num_steps):
        train_step(
            engine,
            list(run.train_loader.deal(run.schedule.rows(number), ROWS_PER_STEP)),
            build(Uniform(), run.tasks),
            step=number,
            learning_rate=0.0,
            reduction=run.reduction,
            num_tasks=len(run.tasks),
            group=run.group,
            expected_units=run.expected_units,
        )
    squared_mean = float((engine.total / num_steps).square().sum())
    return engine.squares / num_steps / squared_mean - 1


def show(mix: str, found: list[dict[str, Any]]) -> None:
    """The table of one mix: means over seeds, and of differences their standard error."""

    def of(denominator: str, key: str) -> Vector:
        return np.array([one[denominator][key] for one in found])

    print(f"\n{mix}: {len(found)} seeds; by rank of size, the largest first")
    for name in DENOMINATORS:
        losses, weights = of(name, "losses"), of(name, "weights")
        print(f"  {name:5}  weights {weights.mean(0).round(3)}  losses {losses.mean(0).round(3)}")
        print(f"         mean loss {losses.mean():.4f}  clipped {of(name, 'clipped').mean():.2f}", end="")
        print(f"  variance of the gradient {of(name, 'noise').mean():.1f} x its mean squared")
    ratios = of("epoch", "losses") / of("step", "losses")
    mean = of("epoch", "losses").mean(1) / of("step", "losses").mean(1)
    error = np.sqrt(len(found))
    print(f"  epoch / step  {ratios.mean(0).round(4)} +- {(ratios.std(0, ddof=1) / error).round(4)}", end="")
    print(f"  mean loss {mean.mean():.4f} +- {mean.std(ddof=1) / error:.4f}")


if __name__ == "__main__":
    main()
