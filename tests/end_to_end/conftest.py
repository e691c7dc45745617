"""The project is shared with other suites."""

import json
from pathlib import Path

import pytest
from end_to_end_project import project, succeed, write_config

__all__ = ["project", "runs", "write_config"]


@pytest.fixture(scope="session")
def runs(project, tmp_path_factory) -> dict[str, Path]:
    """A full and a LoRA run, under ZeRO-3 and ZeRO-2."""
    found = {}
    for name, lora, stage in (("full", None, 3), ("lora", {"rank": 4, "alpha": 8, "dropout": 0.0}, 2)):
        folder = tmp_path_factory.mktemp(name)
        config = json.loads(json.dumps(project))
        config["output_dir"] = str(folder / "run")
        config["model"]["lora"] = lora
        config["training"]["save_best"] = True
        config["deepspeed"] = {"zero_optimization": {"stage": stage}}
        (folder / "config.json").write_text(json.dumps(config))
        succeed("train", folder / "config.json", ranks=2 if name == "full" else 1)
        found[name] = folder / "run"
    return found
