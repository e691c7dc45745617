import copy
from typing import Any

import pytest

MINIMAL: dict[str, Any] = {
    "output_dir": "runs/x",
    "model": {"path": "m"},
    "data": {"tasks": [{"name": "a", "path": "a.jsonl"}, {"name": "b", "path": "b.jsonl"}]},
}


@pytest.fixture
def minimal() -> dict[str, Any]:
    """The smallest config with two tasks."""
    return copy.deepcopy(MINIMAL)
