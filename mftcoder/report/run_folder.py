"""Reads what a run left in its folder: config.json, run.json, metrics.jsonl, generations.jsonl, evaluation.json.

Every file may be missing and a killed run may end in half a line; what could not be read is named in ``Run.notes``.
The quantities of a train line hold for the window since the train line before it.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mftcoder.errors import MftcoderError

Vector = NDArray[np.float64]
REQUIRED_ANY = ("config.json", "run.json", "metrics.jsonl")
KINDS = ("train", "validation", "probe", "checkpoint", "stop")
OPTIONAL = ("generations.jsonl", "evaluation.json")


@dataclass(frozen=True)
class Timeline:
    """All metrics of one kind as arrays over its n lines; NaN where a line had no number."""

    steps: Vector  # [n]
    scalars: dict[str, Vector]  # metric -> [n]
    by_task: dict[str, dict[str, Vector]]  # metric -> task -> [n]

    @classmethod
    def of(cls, lines: list[dict[str, Any]]) -> "Timeline":
        """From the JSON objects of one kind, in the order of the file."""
        scalars = _columns(lines)
        nested = _in_order(key for line in lines for key, value in line.items() if isinstance(value, dict))
        by_task = {key: _columns([mapping(line.get(key)) for line in lines]) for key in nested}
        return cls(scalars.get("step", np.empty(0)), scalars, by_task)

    def scalar(self, metric: str) -> Vector:
        """[n]; all NaN if the run did not record ``metric``."""
        return self.scalars.get(metric, np.full(len(self.steps), np.nan))

    def tasks(self, metric: str) -> dict[str, Vector]:
        """Task to [n]; empty if the run did not record ``metric``."""
        return self.by_task.get(metric, {})


@dataclass(frozen=True)
class Run:
    """One run folder. Strings come from files and are not to be trusted."""

    path: Path
    label: str
    tasks: tuple[str, ...]
    config: dict[str, Any]
    info: dict[str, Any]
    train: Timeline
    validation: Timeline
    probe: Timeline
    checkpoints: list[dict[str, Any]]
    stop: dict[str, Any] | None
    generations: list[dict[str, Any]]
    evaluation: dict[str, Any]
    notes: tuple[str, ...]

    def timeline(self, kind: str) -> Timeline:
        """The timeline of ``kind``: train, validation or probe."""
        return {"train": self.train, "validation": self.validation, "probe": self.probe}[kind]


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs in ``folders``, labelled by folder name, or by path where two folders share a name."""
    if not folders:
        raise MftcoderError("report: at least one run folder is needed, found none.")
    names = [folder.resolve().name for folder in folders]
    distinct = len(set(names)) == len(names)
    return [read_run(folder, name if distinct else str(folder)) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, label: str) -> Run:
    """What ``folder`` holds; MftcoderError if it is not the folder of a run."""
    if not any((folder / name).is_file() for name in REQUIRED_ANY):
        found = "no such folder" if not folder.is_dir() else f"none of {', '.join(REQUIRED_ANY)}"
        raise MftcoderError(f"{folder}: not a run folder; found {found}. Give the output_dir of a training run.")
    notes: list[str] = []
    config, info, evaluation = (
        _read_object(folder / name, notes) for name in ("config.json", "run.json", "evaluation.json")
    )
    lines = [line for line in _read_lines(folder / "metrics.jsonl", notes) if math.isfinite(_number(line.get("step")))]
    kinds = {kind: [line for line in lines if line.get("kind") == kind] for kind in KINDS}
    train, validation, probe = (Timeline.of(kinds[kind]) for kind in ("train", "validation", "probe"))
    missing = [name for name in REQUIRED_ANY + OPTIONAL if not (folder / name).is_file()]
    if missing:
        notes.append(f"not in this folder: {', '.join(missing)}.")
    generations = list(_read_lines(folder / "generations.jsonl", notes))
    recorded = info.get("notes")
    return Run(
        path=folder,
        label=label,
        tasks=_task_names(config, info, (validation, train, probe)),
        config=config,
        info=info,
        train=train,
        validation=validation,
        probe=probe,
        checkpoints=kinds["checkpoint"],
        stop=kinds["stop"][-1] if kinds["stop"] else None,
        generations=generations,
        evaluation=evaluation,
        notes=(*(str(note) for note in (recorded if isinstance(recorded, list) else [])), *notes),
    )


def mapping(value: Any) -> dict[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key to value as JSON; a list is one value."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(item, sort_keys=True, ensure_ascii=False)
    return flat


def all_tasks(runs: list[Run]) -> list[str]:
    """The tasks of all runs, in the order of their first appearance."""
    return _in_order(task for run in runs for task in run.tasks)


def _task_names(config: dict[str, Any], info: dict[str, Any], timelines: Iterable[Timeline]) -> tuple[str, ...]:
    configured = mapping(config.get("data")).get("tasks")
    names = [mapping(task).get("name") for task in (configured if isinstance(configured, list) else [])]
    names += mapping(mapping(info.get("data")).get("tasks"))
    names += [task for timeline in timelines for task in timeline.tasks("losses")]
    return tuple(_in_order(name for name in names if isinstance(name, str)))


def _columns(objects: list[dict[str, Any]]) -> dict[str, Vector]:
    """Key to [n] for every key that somewhere holds a number."""
    keys = _in_order(key for line in objects for key, value in line.items() if isinstance(value, int | float))
    return {key: np.array([_number(line.get(key)) for line in objects]) for key in keys}


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer beyond float64
        return math.nan


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = _parse(path.read_bytes())
    if value is None:
        notes.append(f"{path.name} is not a JSON object; it was left out.")
    return value or {}


def _read_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSONL file, one at a time; broken lines are counted in ``notes``."""
    if not path.is_file():
        return
    broken = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            value = _parse(line) if line.strip() else {}
            if value is None:
                broken.append(number)
            elif value:
                yield value
    if broken:
        where = f"line {broken[0]}" if len(broken) == 1 else f"{len(broken)} lines, the first is line {broken[0]}"
        notes.append(f"{path.name}: {where} could not be read (a killed run can end in half a line); left out.")


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
