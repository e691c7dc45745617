"""A user's package adds a record format, a weighting and a model family by being named in the config."""

import json
from pathlib import Path

import pytest
from end_to_end_project import command, succeed
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.config.load import load
from mftcoder.errors import MftcoderError

PLUGIN = """
import numpy as np
from mftcoder.data.records import RECORD_FORMATS, Format, Text
from mftcoder.losses.weighting import WEIGHTINGS
from mftcoder.models.adapter import CausalAdapter
from mftcoder.models.families import ADAPTERS

class First:
    observes = frozenset()
    def __init__(self, tasks, share):
        self.values = np.array([share, 1 - share])
    def weights(self, step, present):
        return self.values
    def observe(self, kind, step, losses):
        pass
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass

RECORD_FORMATS["body"] = Format(lambda r: "body" in r, lambda r, where: Text(r["body"], where=where))
WEIGHTINGS["first"] = First
ADAPTERS["llama"] = CausalAdapter("patched", isolation="block_mask")
"""


def project(folder: Path, **changes: object) -> Path:
    (folder / "my_plugin.py").write_text(PLUGIN)
    tiny_llama().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for name in ("a", "b"):
        lines = [json.dumps({"body": f"{name} {number} said"}) for number in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    config = {
        "output_dir": "run",
        "plugins": ["my_plugin"],
        "model": {"path": "base", "dtype": "float32"},
        "data": {"sequence_length": 64, "tasks": [{"name": n, "path": f"{n}.jsonl"} for n in ("a", "b")]},
        "loss": {"weighting": {"type": "plugin", "name": "first", "settings": {"share": 0.25}}, "denominator": "step"},
        "training": {"max_steps": 1, "per_device_train_batch_size": 8, "eval_strategy": "no"},
        "logging": {"logging_steps": 1, "report_to": []},
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder / "config.json"


@pytest.mark.engine
def test_its_format_weighting_and_family_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = project(tmp_path)
    succeed("tokenize", path, "--workers", 2)
    succeed("train", path)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if line["kind"] == "train")
    assert step["weights"] == pytest.approx({"a": 0.25, "b": 0.75})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plugins": ["no_such_plugin"]}, 'plugins: "no_such_plugin" cannot be imported: ModuleNotFoundError'),
        ({"loss": {"weighting": {"type": "plugin", "name": "second"}}}, 'no plugin has added a weighting "second"'),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    path = project(tmp_path, **changes)
    if "plugins" in changes:
        with pytest.raises(MftcoderError, match=message):
            load(path)
    else:
        done = command("train", path)
        assert done.returncode == 2
        assert message in done.stderr
