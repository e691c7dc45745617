"""The terms of CoBa (Gong et al., EMNLP 2024, Eq. 2-7) as pure functions of arrays.

A task's slope is that of its validation loss, as a ratio to its first, over a window of steps. Relative scores (RCS)
favour tasks that converge more slowly than the others; absolute scores (ACS) favour tasks that still converge as they
used to; the divergence factor (DF) moves the weights from the first to the second once a task stops converging.

Where the paper contradicts itself: Eq. 7's denominator sums magnitudes (without the bars DF would rise when a task
diverges), its numerator is the signed largest slope, DF is at most 1, and the scores count from the warm-up on.
"""

import math
from dataclasses import dataclass

import numpy as np

from mftcoder.losses.weighting.base import Vector, softmax, with_floor

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
        """What it is after the next α_max, ``largest``, and DF there, not yet held to 1."""
        count, magnitude = self.count + 1, self.magnitude + abs(largest)
        exponent = -temperature * count * (largest / magnitude if magnitude > FLAT else 0.0)
        log_sum = float(np.logaddexp(self.log_sum, exponent)) if self.count else exponent
        return RunningDivergence(count, magnitude, log_sum), count * math.exp(exponent - log_sum)


def common_divergence(largest: Vector, temperature: float) -> float:
    """DF of Eq. 7, not yet held to 1, with one denominator for all of ``largest`` [t], the values of α_max so far."""
    count = len(largest)
    exponents = -temperature * count * shares(largest, np.abs(largest).sum())
    return count * float(softmax(exponents)[-1])


def slope_of_largest(steps: Vector, ratios: Vector) -> float:
    """What the released code takes for α_max: the slope of the largest of ``ratios`` [n, K] at each of ``steps`` [n].

    It does not see a task that diverges below the largest ratio. 0 without two points.
    """
    largest = np.where(np.isnan(ratios), -np.inf, ratios).max(axis=1)
    slope = window_slopes(steps, np.where(np.isfinite(largest), largest, np.nan)[:, None])[0]
    return float(np.nan_to_num(slope))


def released_weights(scores: Vector) -> Vector:
    """What the released code makes of DF·RCS + (1 - DF)·ACS [K]: a softmax, and a floor that acts for all or none."""
    weights, floor = softmax(len(scores) * scores), 0.1 / len(scores)
    return with_floor(weights, floor) if (weights < floor).any() else weights
