"""One process, plain torch: fast unit tests, and the oracle that DeepSpeed is checked against."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from mftcoder.config.schema import Training
from mftcoder.data.batch import Batch
from mftcoder.engine.optimizer import build_optimizer, set_learning_rate, steps_taken
from mftcoder.engine.protocol import StepInfo
from mftcoder.models.adapter import TokenNLL


class LocalEngine:
    """See ``protocol.Engine``."""

    def __init__(self, model: TokenNLL, training: Training, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device)
        self._device = torch.device(device)
        self._max_grad_norm = training.max_grad_norm or math.inf
        self._optimizer = build_optimizer(model, training)

    def __call__(self, batch: Batch, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.model(batch.to(self._device), coefficients)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> StepInfo:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm).item()
        skip = not math.isfinite(norm)
        if not skip:
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
        self._optimizer.zero_grad()
        return StepInfo(norm, skip)

    def replicated(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.named_parameters()

    def optimizer_steps(self) -> list[float]:
        return steps_taken(self._optimizer)

    def train(self, mode: bool) -> None:
        self.model.train(mode)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(directory / "model.safetensors"))
        torch.save(self._optimizer.state_dict(), directory / "optimizer.pt")

    def load_by_name(self, directory: Path, *, weights_only: bool) -> None:
        load_model(self.model, str(directory / "model.safetensors"))
        if not weights_only:
            self._optimizer.load_state_dict(torch.load(directory / "optimizer.pt", weights_only=True))

    def load(self, directory: Path) -> None:
        self.load_by_name(directory, weights_only=False)
