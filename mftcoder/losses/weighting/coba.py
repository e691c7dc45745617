"""CoBa, the Convergence Balancer (Gong et al., EMNLP 2024, Eq. 2-7): pure functions of arrays, then a thin class.

A task's slope is that of its validation loss, as a ratio to its first, over a window of steps. Relative scores (RCS)
favour tasks that converge more slowly than the others; absolute scores (ACS) favour tasks that still converge as they
used to; the divergence factor (DF) moves the weights from the first to the second once a task stops converging.

Where the paper contradicts itself: Eq. 7's denominator sums magnitudes (without the bars DF would rise when a task
diverges), its numerator is the signed largest slope, DF is at most 1, and the scores count from the warm-up on.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting.base import TaskLosses, Vector, over_present, ratios_to_first, to_json
from mftcoder.tasks import TaskSet

FLAT = 1e-12  # per step; slopes whose magnitudes sum to no more than this say nothing


def window_slopes(steps: Vector, ratios: Vector) -> Vector:
    """Least-squares slopes [K] of ``ratios`` [n, K] on ``steps`` [n], per step; NaN ratios are left out.

    NaN for a task with fewer than two ratios.
    """
    seen = np.isfinite(ratios)
    counts = np.maximum(seen.sum(axis=0), 1)
    x = np.where(seen, steps[:, None], 0.0)
    y = np.where(seen, ratios, 0.0)
    x = np.where(seen, x - x.sum(axis=0) / counts, 0.0)
    y = np.where(seen, y - y.sum(axis=0) / counts, 0.0)
    spread = (x * x).sum(axis=0)
    return np.divide((x * y).sum(axis=0), spread, out=np.full(ratios.shape[1], np.nan), where=spread > 0)


def softmax(scores: Vector) -> Vector:
    """Softmax over the only axis."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def shares(slopes: Vector, magnitudes: Vector) -> Vector:
    """``slopes / magnitudes``, elementwise; 0, which is neutral, where the magnitudes are flat."""
    slopes, magnitudes = np.broadcast_arrays(slopes, magnitudes)
    return np.divide(slopes, magnitudes, out=np.zeros(slopes.shape), where=magnitudes > FLAT)


def relative_scores(slopes: Vector) -> Vector:
    """RCS [K] of ``slopes`` [K]: the more, the more slowly a task converges beside the others."""
    return softmax(len(slopes) * shares(slopes, np.abs(slopes).sum()))


def absolute_scores(history: Vector) -> Vector:
    """ACS [K] of the slopes ``history`` [n, K], the current ones last, NaN before a task's first slope.

    The more, the faster a task still converges beside its own past.
    """
    counts = np.isfinite(history).sum(axis=0)
    return softmax(-counts * shares(history[-1], np.nansum(np.abs(history), axis=0)))


@dataclass(frozen=True)
class RunningDivergence:
    """Eq. 7 with the denominator Σ_{j<=s} |α_max(j)| at the s-th slope: exponents never change, so three numbers do."""

    count: int = 0
    magnitude: float = 0.0  # Σ|α_max|
    log_sum: float = 0.0  # log Σ exp(z_s); 0 before the first slope

    def then(self, largest: float, temperature: float) -> tuple["RunningDivergence", float]:
        """What it is after the next α_max, ``largest``, and DF there."""
        count, magnitude = self.count + 1, self.magnitude + abs(largest)
        exponent = -temperature * count * (largest / magnitude if magnitude > FLAT else 0.0)
        log_sum = float(np.logaddexp(self.log_sum, exponent)) if self.count else exponent
        factor = math.exp(min(0.0, math.log(count) + exponent - log_sum))
        return RunningDivergence(count, magnitude, log_sum), factor


def common_divergence(largest: Vector, temperature: float) -> float:
    """DF of Eq. 7 with one denominator for all of ``largest`` [t], the values of α_max so far."""
    count = len(largest)
    exponents = -temperature * count * shares(largest, np.abs(largest).sum())
    return min(1.0, count * float(softmax(exponents)[-1]))


class CoBa:
    """The weights DF·RCS + (1 - DF)·ACS, constant from one validation to the next.

    Uniform before step ``warmup_steps``. Slopes are fitted over, and ACS compares with, what was observed in the last
    ``window_steps`` steps (t - N, t]. A task without two losses in the window keeps its last slope; one that never had
    a slope weighs exactly 1/K and the others share the rest.

    Memory is O(window_steps · K); the "common" divergence factor also keeps one number per observation.

    Attributes (all [K] but ``df``, which is []; NaN while undefined):
        base: l(0) in nats, the first usable loss of each task.
        ratios: the last losses as ratios to base.
        slopes, rcs, acs, df: the terms of the last weights.
        missing: how many observations had no finite loss.
    """

    observes: frozenset[str] = frozenset({"validation"})
    _VECTORS = ("base", "ratios", "slopes", "rcs", "acs", "df", "missing", "balance")

    def __init__(
        self,
        tasks: TaskSet,
        *,
        window_steps: int,
        warmup_steps: int,
        temperature: float,
        divergence_factor: Literal["running", "common"],
        floor: float,
    ) -> None:
        """The settings are those of ``config.schema.CoBa``; MftcoderError if K · ``floor`` reaches 1."""
        num_tasks = len(tasks)
        if num_tasks * floor >= 1:
            raise MftcoderError(
                f"loss.weighting.floor: must be below 1 / (number of tasks) = {1 / num_tasks:.4g}; found {floor}. "
                "Choose a lower one."
            )
        self.tasks = tasks
        self.window_steps = window_steps
        self.warmup_steps = warmup_steps
        self.temperature = temperature
        self.divergence_factor = divergence_factor
        self.floor = floor

        undefined = np.full(num_tasks, np.nan)
        self.base = self.ratios = self.slopes = self.rcs = self.acs = undefined
        self.df = np.array(np.nan)
        self.missing = np.zeros(num_tasks)
        self.balance = np.full(num_tasks, 1 / num_tasks)  # the weights if all tasks are present
        self._ratio_window: deque[tuple[int, Vector]] = deque()
        self._slope_window: deque[tuple[int, Vector]] = deque()
        self._running = RunningDivergence()
        self._largest: list[float] = []  # every α_max so far; "common" only

    def weights(self, step: int, units: Vector) -> Vector:
        """[K]: the weights of the last observation, renormalised over the tasks present."""
        return over_present(self.balance, units)

    def observe(self, kind: str, step: int, losses: TaskLosses) -> None:
        """Take note of validation losses. Steps must increase: MftcoderError if ``step`` is not after the last one."""
        if kind not in self.observes:
            return
        if self._ratio_window and step <= self._ratio_window[-1][0]:
            raise MftcoderError(
                f"coba: validation losses must come in the order of steps, once each; found step {step} after step "
                f"{self._ratio_window[-1][0]}. Observe every step once."
            )
        self.base, self.ratios = ratios_to_first(self.base, losses)
        self.missing = self.missing + np.isnan(self.ratios)
        self._remember(self._ratio_window, step, self.ratios)
        fitted = window_slopes(*_stacked(self._ratio_window))
        self.slopes = np.where(np.isnan(fitted), self.slopes, fitted)
        if step >= self.warmup_steps and np.isfinite(self.slopes).any():
            self._remember(self._slope_window, step, self.slopes)
            self._rebalance()

    def _remember(self, window: deque[tuple[int, Vector]], step: int, values: Vector) -> None:
        window.append((step, values))
        while window[0][0] <= step - self.window_steps:
            window.popleft()

    def _rebalance(self) -> None:
        num_tasks, known = len(self.tasks), np.isfinite(self.slopes)
        rcs = relative_scores(self.slopes[known])
        acs = absolute_scores(_stacked(self._slope_window)[1][:, known])
        df = self._next_divergence_factor(float(self.slopes[known].max()))

        balance = np.full(num_tasks, 1 / num_tasks)
        # This form of DF·RCS + (1 - DF)·ACS, and that of the floor, keep equal weights equal to the last bit.
        balance[known] = known.mean() * (acs + df * (rcs - acs))
        self.balance = balance + self.floor * (1 - num_tasks * balance)
        self.rcs, self.acs, self.df = _spread(rcs, known), _spread(acs, known), np.array(df)

    def _next_divergence_factor(self, largest: float) -> float:
        if self.divergence_factor == "running":
            self._running, factor = self._running.then(largest, self.temperature)
            return factor
        self._largest.append(largest)
        return common_divergence(np.array(self._largest), self.temperature)

    def diagnostics(self) -> dict[str, Vector]:
        """slopes, rcs, acs, ratios, missing [K] and df []; see the attributes."""
        return {name: getattr(self, name) for name in ("slopes", "rcs", "acs", "df", "ratios", "missing")}

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values, with the names of the tasks."""
        return {
            "tasks": list(self.tasks),
            **{name: to_json(getattr(self, name)) for name in self._VECTORS},
            "ratio_window": [[step, to_json(values)] for step, values in self._ratio_window],
            "slope_window": [[step, to_json(values)] for step, values in self._slope_window],
            "running": asdict(self._running),
            "largest": list(self._largest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; MftcoderError if it belongs to other tasks."""
        if tuple(state["tasks"]) != self.tasks.names:
            raise MftcoderError(
                f"coba: the saved state is of {len(state['tasks'])} tasks ({', '.join(state['tasks'])}), but the run "
                f"has {len(self.tasks)} ({', '.join(self.tasks)}). Resume with the same tasks in the same order."
            )
        for name in self._VECTORS:
            setattr(self, name, np.array(state[name], dtype=np.float64))
        for window, saved in (
            (self._ratio_window, state["ratio_window"]),
            (self._slope_window, state["slope_window"]),
        ):
            window.clear()
            window.extend((step, np.array(values, dtype=np.float64)) for step, values in saved)
        self._running = RunningDivergence(**state["running"])
        self._largest = list(state["largest"])


def _stacked(window: deque[tuple[int, Vector]]) -> tuple[Vector, Vector]:
    steps, values = zip(*window, strict=True)
    return np.array(steps, dtype=np.float64), np.array(values)


def _spread(values: Vector, known: NDArray[np.bool_]) -> Vector:
    spread = np.full(len(known), np.nan)
    spread[known] = values
    return spread
