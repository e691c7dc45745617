"""Configs of `construct run` that ask a server on loopback, and what they make."""

import json
from pathlib import Path
from typing import Any

from mftcoder.construct.pipeline import manifest_path

KEY = "sk-test-0123456789abcdef"


class Made:
    """The files of a task that was made."""

    def __init__(self, out: Path, told: list[str]) -> None:
        self.bytes = (out / "task.jsonl").read_bytes()
        self.records = [json.loads(line) for line in self.bytes.splitlines()]
        self.manifest_bytes = manifest_path(out, "task").read_bytes()
        self.manifest: dict[str, Any] = json.loads(self.manifest_bytes)
        self.steps = self.manifest["steps"]
        self.told = told


def write_config(folder: Path, generator: dict[str, Any], out: str = "out", **sections: Any) -> Path:
    """A config of the task ``task`` in ``folder``, that gives up soon."""
    endpoint = {"retries": 3, "backoff_seconds": 0.01, "timeout_seconds": 5} | sections.pop("endpoint", {})
    config = {"out": str(folder / out), "task": "task", "generator": generator, "endpoint": endpoint, **sections}
    path = folder / f"{out}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
