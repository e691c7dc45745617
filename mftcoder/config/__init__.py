"""The training config: one JSON file."""

from mftcoder.config.load import load, parse
from mftcoder.config.schema import Config

__all__ = ["Config", "load", "parse"]
