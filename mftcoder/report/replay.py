"""Recorded losses, from a run or from anywhere, replayed through a weighting: the tables of ``mftcoder simulate``."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from mftcoder.config.problems import show
from mftcoder.errors import MftcoderError
from mftcoder.losses.simulation import replay
from mftcoder.losses.weighting import Vector

FORMS = (
    "a run, its metrics.jsonl, a CSV with the tasks' names as header, or a JSON object with losses as a list of steps, "
    "each a list of tasks"
)
SHOWN = ("weights", "coefficients", "slopes", "rcs", "acs", "df")  # of what a weighting has, in the table
ROWS = 40  # of the table; more are thinned evenly


@dataclass(frozen=True)
class Recorded:
    """The losses of K tasks at T steps."""

    tasks: tuple[str, ...]
    steps: tuple[int, ...] | None  # None: not recorded
    losses: Vector  # [T, K] nats, NaN where there was none
    base: Vector | None  # [K]: l(0) where it is given apart


def read_losses(path: Path, case: str | None = None) -> Recorded:
    """What ``path`` holds, in one of FORMS; MftcoderError, with the line where there is one, if it is none of them.

    Of a run the probe is taken, or the validation if nobody watched a probe. ``case`` names one of several objects in a
    JSON file.
    """
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MftcoderError(f"{path}: cannot be read: {error}. Name {FORMS}.") from None
    try:
        if path.suffix == ".jsonl":
            return _of_run(text)
        if path.suffix == ".csv":
            return _of_csv(text)
        return _of_json(text, case)
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise MftcoderError(f"{path}: {error}. It must be {FORMS}.") from None
    except KeyError as error:
        raise MftcoderError(f"{path}: {error} is missing. It must be {FORMS}.") from None


def simulation(weighting: Mapping[str, Any], recorded: Recorded, interval: int | None = None) -> dict[str, Any]:
    """``losses.simulate`` over ``recorded``, with "tasks" and "steps". ``interval`` numbers the rows anew."""
    steps: tuple[int, ...] | range | None = recorded.steps
    if steps is None or interval is not None:
        steps = range(0, len(recorded.losses) * (interval or 1), interval or 1)
    found = replay(weighting, recorded.losses, steps=steps, step0_losses=recorded.base, tasks=recorded.tasks)
    return {"tasks": recorded.tasks, "steps": list(steps), "losses": recorded.losses, **found}


def as_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` as lists, with null for what is undefined."""
    return {
        name: _plain(values.tolist()) if isinstance(values, np.ndarray) else list(values)
        for name, values in result.items()
    }


def as_csv(result: Mapping[str, Any]) -> str:
    """One line a step; columns are ``name`` or ``name/task``, empty where undefined."""
    columns = dict(_columns(result, [name for name in result if name not in ("tasks", "steps")]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", *columns])
    for t, step in enumerate(result["steps"]):
        writer.writerow(
            [step, *("" if math.isnan(column[t]) else repr(float(column[t])) for column in columns.values())]
        )
    return out.getvalue().rstrip("\n")


def table(result: Mapping[str, Any]) -> Table:
    """Weights and what they are made of, at most ROWS steps of them."""
    columns = dict(_columns(result, [name for name in SHOWN if name in result]))
    headers = [Column(Text(name.replace("/", "\n")), justify="right") for name in ("step", *columns)]
    shown = Table(*headers)
    numbers = np.unique(np.linspace(0, len(result["steps"]) - 1, ROWS).round().astype(int))
    for t in numbers:
        cells = ("–" if math.isnan(column[t]) else f"{column[t]:.4g}" for column in columns.values())
        shown.add_row(str(result["steps"][t]), *cells)
    if len(numbers) < len(result["steps"]):
        shown.caption = f"{len(numbers)} of {len(result['steps'])} steps; --json and --to have all"
    return shown


def _columns(result: Mapping[str, Any], names: list[str]) -> list[tuple[str, Vector]]:
    columns = []
    for name in names:
        values = result[name]
        if values.ndim == 1:
            columns.append((name, values))
        else:
            columns += [(f"{name}/{task}", values[:, i]) for i, task in enumerate(result["tasks"])]
    return columns


def _of_run(text: str) -> Recorded:
    lines: dict[str, list[dict[str, Any]]] = {"probe": [], "validation": []}
    for number, line in enumerate(text.split("\n")[:-1], 1):  # a killed run can end in half a line
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"line {number} is not JSON") from None
        if entry.get("kind") in lines:
            lines[entry["kind"]].append(entry)
    chosen = lines["probe"] or lines["validation"]
    if not chosen:
        raise ValueError("there is neither a probe nor a validation line in it")
    tasks = tuple(chosen[0]["losses"])
    losses = [[_number(entry["losses"][task]) for task in tasks] for entry in chosen]
    return Recorded(tasks, _increasing([entry["step"] for entry in chosen]), np.array(losses), None)


def _of_csv(text: str) -> Recorded:
    header, *rows = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(header)}")
    columns = {name.strip(): [row[i] for row in rows] for i, name in enumerate(header)}
    steps = columns.pop("step", None)
    losses = [[_number(cell) for cell in cells] for cells in zip(*columns.values(), strict=True)]
    return Recorded(
        tuple(columns), None if steps is None else _increasing([int(step) for step in steps]), _matrix(losses), None
    )


def _of_json(text: str, case: str | None) -> Recorded:
    content = json.loads(text)
    if "losses" not in content:
        names = ", ".join(content)
        if case is None:
            raise ValueError(f"it holds several cases; choose one with --case: {names}")
        if case not in content:
            raise ValueError(f'there is no case "{case}" among {names}')
        content = content[case]
    losses = _matrix([[_number(loss) for loss in row] for row in content["losses"]])
    tasks = _names(content.get("tasks") or [f"task-{i + 1}" for i in range(losses.shape[1])])
    base, steps = content.get("base"), content.get("steps")
    return Recorded(
        tasks,
        None if steps is None else _increasing(steps),
        losses,
        None if base is None else np.array([_number(loss) for loss in base]),
    )


def _names(names: Sequence[Any]) -> tuple[str, ...]:
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"its tasks must be names; found {show(wrong[0])}")
    return tuple(names)


def _increasing(steps: list[int]) -> tuple[int, ...]:
    if wrong := [step for step in steps if not isinstance(step, int) or abs(step) >= 2**63]:
        raise ValueError(f"its steps must be whole numbers; found {show(wrong[0])}")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("its steps do not increase")
    return tuple(steps)


def _matrix(rows: list[list[float]]) -> Vector:
    if not rows or not rows[0]:
        raise ValueError("there are no losses in it")
    return np.array(rows)


def _number(value: Any) -> float:
    """A loss; NaN for null and an empty cell. Infinite ones are kept: they were observed."""
    return math.nan if value is None or value == "" else float(value)


def _plain(values: Any) -> Any:
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if math.isfinite(values) else None
