"""pass@k and its uncertainty, as pure functions of counts."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

Vector = NDArray[np.float64]


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that of ``k`` samples one passes, without bias (Chen et al. 2021, equation 1).

    Args:
        samples: n, how many were drawn; at least ``k``.
        passed: c, how many of them passed.
        k: how many may be tried.

    Returns 1 - C(n - c, k) / C(n, k), as a product, which does not overflow.
    """
    if samples - passed < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - passed + 1, samples + 1)))


def bootstrap(values: Vector) -> list[float] | None:
    """The central 95 % of the mean of ``values`` [N] when the N problems are drawn anew with replacement.

    None where all are alike, or there is one: such values say nothing about how problems differ.
    """
    if len(np.unique(values)) < 2:
        return None
    generator = np.random.default_rng(0)
    share = np.full(len(values), 1 / len(values))
    means = [generator.multinomial(len(values), share) @ values / len(values) for _ in range(RESAMPLES)]
    return [float(bound) for bound in np.quantile(means, [0.025, 0.975])]
