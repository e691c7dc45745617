"""The project of the end-to-end tests, and a run that lasts until something happens to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from end_to_end_project import project, write_config

__all__ = ["project", "write_config"]


@pytest.fixture
def long_run(write_config: Callable[..., Path]) -> Callable[..., Path]:
    """``long_run("name", …)`` writes the config of a run of some thousand steps, with one validation and no saves."""
    lasting = {"training__num_train_epochs": 400, "training__eval_steps": 100_000, "training__save_steps": 100_000}

    def write(name: str, **changes: Any) -> Path:
        return write_config(name, **lasting | {"logging__logging_steps": 5} | changes)

    return write
