"""CoBa, the Convergence Balancer (Gong et al., EMNLP 2024): weights that follow from a history of validation losses.

The preset "released" is not the paper but the code that MFTCoder released, for reproducing its runs.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mftcoder.config.schema import COBA_STEPS
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting.base import (
    Stateful,
    TaskLosses,
    Vector,
    check_floor,
    over_known,
    over_present,
    ratios_to_first,
    to_json,
    with_floor,
)
from mftcoder.losses.weighting.coba_terms import (
    RunningDivergence,
    absolute_scores,
    common_divergence,
    relative_scores,
    released_weights,
    slope_of_largest,
    window_slopes,
)
from mftcoder.tasks import TaskSet

WINDOW_LOOKS, WARMUP_LOOKS = 5, 2  # the least that window and warm-up of "efficient" hold by default


def preset_steps(
    preset: str, window_steps: int | None, warmup_steps: int | None, num_mini_batches: int, every_steps: int
) -> tuple[int, int]:
    """(window_steps, warmup_steps), with those of ``preset`` for None."""
    scale = num_mini_batches if preset == "paper" else 1
    window, warmup = (scale * steps for steps in COBA_STEPS[preset])
    if preset == "efficient":
        window, warmup = max(window, WINDOW_LOOKS * every_steps), max(warmup, WARMUP_LOOKS * every_steps)
    return (window if window_steps is None else window_steps, warmup if warmup_steps is None else warmup_steps)


class CoBa(Stateful):
    """The weights DF·RCS + (1 - DF)·ACS, constant from one validation to the next.

    Uniform before step ``warmup_steps``. Slopes are fitted over, and ACS compares with, what was observed in the last
    ``window_steps`` steps (t - N, t]. A task without two losses in the window keeps its last slope; one that never had
    a slope weighs exactly 1/K and the others share the rest.

    The presets differ in what the loop shows: "efficient" the whole probe now and then, "paper" one of its M
    mini-batches at every step, each paired with its own l(0), and "released" the same with the l(0) of the first
    mini-batch for all. "released" also takes the slope of the largest ratio, leaves DF unbounded, applies a second
    softmax and a floor that jumps, and starts the window of ACS ``warmup_steps`` late.

    Memory is O((window_steps + M) · K); the "common" divergence factor also keeps one number per observation.

    Attributes (all [K] but ``base``, [M, K], and ``df``, []; NaN while undefined):
        base: l(0) in nats, the first usable loss of each task on each mini-batch.
        ratios: the last losses as ratios to base.
        slopes, rcs, acs, df: the terms of the last weights.
        missing: how many observations had no finite loss.
    """

    observes: frozenset[str] = frozenset({"baseline", "validation"})
    _ARRAYS = ("base", "ratios", "slopes", "rcs", "acs", "df", "missing", "balance")

    def __init__(
        self,
        tasks: TaskSet,
        *,
        preset: Literal["efficient", "paper", "released"],
        window_steps: int | None,
        warmup_steps: int | None,
        temperature: float,
        divergence_factor: Literal["running", "common"] | None,
        floor: float,
        num_mini_batches: int = 1,
        every_steps: int = 1,
    ) -> None:
        """The settings are those of ``config.schema.CoBa``, None for what the preset says; MftcoderError if
        K · ``floor`` reaches 1. ``num_mini_batches`` is M; it matters to the preset "paper" alone. ``every_steps``,
        from one look to the next, sets the least defaults of "efficient".
        """
        super().__init__(tasks)
        num_tasks = len(tasks)
        check_floor(floor, num_tasks)
        self.released = preset == "released"
        self.window_steps, self.warmup_steps = preset_steps(
            preset, window_steps, warmup_steps, num_mini_batches, every_steps
        )
        if self.released and self.window_steps < self.warmup_steps:
            raise MftcoderError(
                f'loss.weighting.window_steps: with the preset "released" it must be at least warmup_steps, which is '
                f"{self.warmup_steps}; found {self.window_steps}."
            )
        self.temperature = temperature
        self.divergence_factor = divergence_factor or ("common" if self.released else "running")
        self.floor = floor
        self._score_steps = self.window_steps - self.warmup_steps + 1 if self.released else self.window_steps

        undefined = np.full(num_tasks, np.nan)
        self.base = np.full((num_mini_batches if preset == "paper" else 1, num_tasks), np.nan)
        self.ratios = self.slopes = self.rcs = self.acs = undefined
        self.df = np.array(np.nan)
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
        if kind == "validation" and self._ratio_window and step <= self._ratio_window[-1][0]:
            raise MftcoderError(
                f"coba: validation losses must come in the order of steps, once each; found step {step} after step "
                f"{self._ratio_window[-1][0]}. Observe every step once."
            )
        mini_batch = losses.mini_batch if len(self.base) > 1 else 0
        self.base = self.base.copy()
        self.base[mini_batch], ratios = ratios_to_first(self.base[mini_batch], losses)
        if kind == "baseline":
            return
        self.ratios = ratios
        self.missing = self.missing + np.isnan(ratios)
        self._remember(self._ratio_window, step, ratios, self.window_steps)
        fitted = window_slopes(*_stacked(self._ratio_window))
        self.slopes = np.where(np.isnan(fitted), self.slopes, fitted)
        if step >= self.warmup_steps and np.isfinite(self.slopes).any():
            self._remember(self._slope_window, step, self.slopes, self._score_steps)
            self._rebalance()

    @staticmethod
    def _remember(window: deque[tuple[int, Vector]], step: int, values: Vector, num_steps: int) -> None:
        window.append((step, values))
        while window[0][0] <= step - num_steps:
            window.popleft()

    def _rebalance(self) -> None:
        num_tasks, known = len(self.tasks), np.isfinite(self.slopes)
        rcs = relative_scores(self.slopes[known])
        acs = absolute_scores(_stacked(self._slope_window)[1][:, known])
        df = self._next_divergence_factor(known)
        scores = acs + df * (rcs - acs)  # in this form equal ones stay equal to the last bit
        if self.released:
            scores = released_weights(scores)
        self.balance = with_floor(over_known(known, scores, rest=np.full(num_tasks, 1 / num_tasks)), self.floor)
        self.rcs, self.acs, self.df = _spread(rcs, known), _spread(acs, known), np.array(df)

    def _next_divergence_factor(self, known: NDArray[np.bool_]) -> float:
        largest = slope_of_largest(*_stacked(self._ratio_window)) if self.released else self.slopes[known].max()
        if self.divergence_factor == "running":
            self._running, factor = self._running.then(float(largest), self.temperature)
        else:
            self._largest.append(float(largest))
            factor = common_divergence(np.array(self._largest), self.temperature)
        return factor if self.released else min(1.0, factor)

    def diagnostics(self) -> dict[str, Vector]:
        """slopes, rcs, acs, ratios, missing [K] and df []; see the attributes."""
        return {name: getattr(self, name) for name in ("slopes", "rcs", "acs", "df", "ratios", "missing")}

    def state_dict(self) -> dict[str, Any]:
        """All state as JSON-ready values, with the names of the tasks."""
        return {
            **super().state_dict(),
            "ratio_window": [[step, to_json(values)] for step, values in self._ratio_window],
            "slope_window": [[step, to_json(values)] for step, values in self._slope_window],
            "running": asdict(self._running),
            "largest": list(self._largest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; MftcoderError if it belongs to other tasks."""
        super().load_state_dict(state)
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
