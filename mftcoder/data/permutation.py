"""Orders that a seed fixes for ever: the same on every machine and with every version of NumPy."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def splitmix64(seed: int, n: int) -> NDArray[np.uint64]:
    """The first ``n`` outputs of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) started at ``seed`` modulo 2^64."""
    return mix64(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(seed & _MASK))


def mix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's last step: one to one, and every bit of the result depends on every bit of ``z``."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """[n]: a permutation of 0 … n-1 that depends on ``key`` (such as seed and epoch) and on nothing else."""
    state = 0
    for part in key:
        state = int(splitmix64(state ^ (part & _MASK), 1)[0])
    return np.argsort(splitmix64(state, n), kind="stable")
