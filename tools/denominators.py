"""What ``loss.denominator`` does to a rare task and to the noise of the gradient; a part of fidelity.py."""

from typing import Any

import numpy as np
import torch

from mftcoder.config.schema import Uniform
from mftcoder.data.loader import Schedule
from mftcoder.data.mixture import Mixture
from mftcoder.engine.local import LocalEngine
from mftcoder.engine.protocol import StepInfo
from mftcoder.losses.weighting import build
from mftcoder.training.state import Run
from mftcoder.training.step import train_step

ZIPF_ROWS = 240  # of the first task


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


def compare_denominators(run: Run) -> dict[str, Any]:
    """At the weights that ``run`` ended with, over an epoch in which the i-th task has 1/i of the first one's rows.

    Of "step" and "epoch": ``weights`` [K], the mean over steps of how much each task counted, and ``noise``, the
    variance of a step's gradient over the squared norm of the mean gradient.
    """
    rows_per_step = run.schedule.rows_per_step
    sizes = tuple(ZIPF_ROWS // (number + 1) for number in range(len(run.tasks)))
    schedule = Schedule(Mixture(sizes, run.config.seed), rows_per_step)
    rows = [schedule.rows(step) for step in range(sum(sizes) // rows_per_step)]  # without the short last step
    units = np.zeros(len(run.tasks))
    for task, row in (pair for step_rows in rows for pair in step_rows):
        units[task] += run.train_loader.tasks[task][row].supervised.sum()
    found: dict[str, Any] = {}
    for name, expected in (("step", None), ("epoch", units / len(rows))):
        engine, weights = GradientStatistics(run.engine.model, run.config.training), []
        for number, step_rows in enumerate(rows):
            result = train_step(
                engine,
                list(run.train_loader.deal(step_rows, rows_per_step)),
                build(Uniform(), run.tasks),
                step=number,
                learning_rate=0.0,
                reduction=run.reduction,
                num_tasks=len(run.tasks),
                group=run.group,
                expected_units=expected,
            )
            weights.append(result.weights)
        squared_mean = float((engine.total / len(rows)).square().sum())
        found[f"{name}_weights"] = np.mean(weights, axis=0).tolist()
        found[f"{name}_noise"] = engine.squares / len(rows) / squared_mean - 1
    return found
