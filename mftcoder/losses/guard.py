"""The overfit guard: a task whose validation loss has turned for good is no longer trained on.

After mSFT (arXiv 2603.21606): per task, the best loss on the probe is kept; after ``patience`` looks in a row that are
worse than it by more than ``tolerance`` standard errors, the task has overfitted. Its rows are left out from then on,
and as a task without units it has no weight.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mftcoder.losses.weighting.base import Stateful, TaskLosses, Vector
from mftcoder.tasks import TaskSet

LAG_STEPS = 1  # a look before step s comes too late for s, whose rows have been read already


class OverfitGuard(Stateful):
    """Watches the probe.

    Attributes:
        stopped_from: [K], the first step without the task; infinite while it is trained on.
    """

    _ARRAYS = ("best", "worse_looks", "stopped_from")

    def __init__(self, tasks: TaskSet, *, patience: int, tolerance: float) -> None:
        """The settings are those of ``config.schema.Guard``."""
        super().__init__(tasks)
        self.patience, self.tolerance = patience, tolerance
        self.best = np.full(len(tasks), np.inf)
        self.worse_looks = np.zeros(len(tasks))
        self.stopped_from = np.full(len(tasks), np.inf)

    def observe(self, step: int, losses: TaskLosses) -> list[str]:
        """Take note of a look at the probe before ``step``; the names of the tasks that it has found to overfit.

        A loss that is missing or not finite says nothing.
        """
        assert losses.standard_errors is not None
        seen = np.isfinite(losses.usable)
        worse = seen & (losses.values > self.best + self.tolerance * losses.standard_errors)
        self.worse_looks = np.where(worse, self.worse_looks + 1, np.where(seen, 0, self.worse_looks))
        self.best = np.where(seen, np.fmin(self.best, losses.values), self.best)
        found = (self.worse_looks >= self.patience) & np.isinf(self.stopped_from)
        self.stopped_from = np.where(found, step + LAG_STEPS, self.stopped_from)
        return [name for name, now in zip(self.tasks, found, strict=True) if now]

    def trains(self, task: int, step: int) -> bool:
        """Whether ``step`` has rows of ``task``."""
        return bool(step < self.stopped_from[task])

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values; infinity, which JSON lacks, as None."""
        return {"tasks": list(self.tasks), **{name: _finite(getattr(self, name)) for name in self._ARRAYS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; MftcoderError if it belongs to other tasks."""
        arrays = {name: [np.inf if value is None else value for value in state[name]] for name in self._ARRAYS}
        super().load_state_dict({**state, **arrays})


def _finite(values: Vector) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
