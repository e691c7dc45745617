"""What the training loop needs of an engine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mftcoder.data.batch import Batch
from mftcoder.models.adapter import TokenNLL


@dataclass(frozen=True)
class StepInfo:
    """What an optimizer step did."""

    grad_norm: float  # of the whole gradient, before clipping; not finite if the step was skipped for that
    skipped: bool  # no weight changed


class Engine(Protocol):
    """Runs the model and updates its weights. Losses handed to ``backward`` are this rank's share of a global sum."""

    @property
    def model(self) -> TokenNLL:
        """What is trained."""
        ...

    def __call__(self, batch: Batch, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(nll [S], loss [], routers' loss []) as in ``TokenNLL``; ``batch`` may be on the host."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate the gradient of ``loss``; ``last`` on the step's last micro-batch."""
        ...

    def step(self, learning_rate: float) -> StepInfo:
        """Update the weights from the accumulated gradient and forget it; if it is not finite, only forget it."""
        ...

    def replicated(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weight that each rank holds whole, and so all hold alike."""
        ...

    def optimizer_steps(self) -> list[float]:
        """The counts of steps that the optimizer itself keeps, without repetition."""
        ...

    def train(self, mode: bool) -> None:
        """Dropout and the like on or off."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights and optimizer state. Collective."""
        ...

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote, on the same number of ranks, under the same ZeRO settings. Collective."""
        ...

    def load_by_name(self, directory: Path, *, weights_only: bool) -> None:
        """Read what ``save`` wrote on any number of ranks, at any ZeRO stage; or only its weights. Collective.

        MftcoderError if other parameters were trained.
        """
        ...
