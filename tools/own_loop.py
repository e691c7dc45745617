"""A task weighting in a training loop of one's own: plain torch, two tasks, a few seconds on a CPU.

One small network learns a slow and a fast curve from noisy points. ``python tools/own_loop.py '{"type": "dwa"}'`` tries
another weighting than CoBa; all but ``gradnorm``, which wants gradient norms, work as they are.
"""

import json
import sys

import numpy as np
import torch
from torch import nn

from mftcoder.losses import TaskLosses, make_weighting

TASKS = {"slow": 1.0, "fast": 3.0}  # task -> angular frequency
COBA = {"type": "coba", "window_steps": 50, "warmup_steps": 20}


def sample(task: int, frequency: float, num_points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [n, 2], whose second column says which task it is, and noisy targets [n]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(num_points, generator=generator) * 2 - 1
    noise = 0.05 * torch.randn(num_points, generator=generator)
    return torch.stack([x, torch.full_like(x, task)], dim=1), torch.sin(frequency * x) + noise


def main(settings: dict, num_steps: int = 400) -> np.ndarray:
    """Train, print every 50 steps, and return the weights [num_steps, K]."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    weighting, everyone = make_weighting(settings, list(TASKS)), np.ones(len(TASKS))
    history = []

    def losses_of(seed: int, num_points: int) -> torch.Tensor:
        """[K]: the mean squared error of each task on the points that ``seed`` draws."""
        parts = [sample(task, frequency, num_points, seed) for task, frequency in enumerate(TASKS.values())]
        return torch.stack([(model(x).squeeze(1) - y).square().mean() for x, y in parts])

    def show(kind: str, step: int, losses: torch.Tensor) -> None:
        weighting.observe(kind, step, TaskLosses.of(losses.detach().double().numpy(), everyone))

    for step in range(num_steps):
        if step % 10 == 0:  # always the same validation points: then the noise of a slope is small
            with torch.no_grad():
                show("validation", step, losses_of(seed=10**6, num_points=512))
        losses = losses_of(seed=step, num_points=32)
        weights = weighting.weights(step, everyone)
        (torch.from_numpy(weights).to(losses) @ losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        show("train", step, losses)
        with torch.no_grad():
            show("replay", step, losses_of(seed=step, num_points=32))
        history.append(weights)
        if step % 50 == 0:
            parts = zip(TASKS, losses.tolist(), weights, strict=True)
            print(
                f"step {step:3d}  " + "  ".join(f"{name} {loss:.4f} (w {weight:.3f})" for name, loss, weight in parts)
            )
    return np.array(history)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else COBA)
