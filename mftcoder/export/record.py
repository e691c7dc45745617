"""What an exported folder says of the training, for programs: trainer_state.json, and the metrics up to there."""

import json
from pathlib import Path
from typing import Any

from mftcoder import __version__
from mftcoder.config.schema import Config
from mftcoder.training.checkpoint import Checkpoint, write_json
from mftcoder.training.trained import STATE, own_infilling_tokens
from mftcoder.versions import versions

METRICS = "metrics.jsonl"


def is_ours(folder: Path) -> bool:
    """Whether ``folder`` is a whole export of this program."""
    try:
        return "mftcoder" in json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError):
        return False


def write_record(
    folder: Path, run_folder: Path, config: Config, found: Checkpoint, findings: dict[str, Any] | None
) -> None:
    """Write both into ``folder``; ``findings`` are those of ``verify``."""
    metrics = [line for line in read_metrics(run_folder) if line["step"] <= found.step]
    with (folder / METRICS).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in metrics)
    state = found.state
    validation = last_validation(metrics)
    content = {
        "mftcoder": __version__,
        "versions": versions(),
        "global_step": found.step,
        "epoch": state.get("epoch"),
        "best_step": state.get("best_step"),
        "world_size": state.get("world_size"),
        "data_fingerprint": state.get("data", {}).get("fingerprint"),
        "tasks": state.get("tasks"),
        "rows_seen": dict(zip(state.get("tasks", []), state.get("rows_seen", []), strict=False)),
        "validation": validation and {key: validation.get(key) for key in ("step", "losses", "ratios")},
        "infilling_tokens": own_infilling_tokens(config),
        "export_check": findings,
    }
    write_json(folder / STATE, content)


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics that have a step; none if it has no metrics. Half a line at the end is left out."""
    file, lines = run_folder / METRICS, []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def last_validation(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last validation among the lines ``metrics``."""
    return next((line for line in reversed(metrics) if line.get("kind") == "validation"), None)
