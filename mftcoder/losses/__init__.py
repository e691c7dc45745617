"""From the loss of every token to one loss: reductions, task weightings, and their replay."""

from mftcoder.losses.simulation import simulate

__all__ = ["simulate"]
