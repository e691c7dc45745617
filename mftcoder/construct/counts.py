"""What ``construct`` counts: for its manifest, for the terminal, and for the message where nothing came out."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from mftcoder.construct.harvest import Root, Settings, counted
from mftcoder.construct.licences import UNKNOWN
from mftcoder.construct.output import Tally, TaskFile
from mftcoder.errors import MftcoderError


@dataclass
class Counts:
    """Of files and what is in them; each task's are with its file."""

    files: Tally = field(default_factory=Tally)
    functions: Tally = field(default_factory=Tally)
    folders: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    emails: int = 0


def as_json(
    roots: Sequence[Root],
    settings: Settings,
    counts: Counts,
    outputs: Mapping[str, TaskFile],
    max_samples: int | None,
    licences: Sequence[str],
) -> dict[str, Any]:
    """All counts as JSON."""
    return {
        "python": platform.python_version(),
        "roots": [str(root.path) for root in roots],
        "commits": [root.checkout.commit if root.checkout else None for root in roots],
        "settings": {
            "max_samples": max_samples,
            "max_chars": settings.max_chars,
            "seed": settings.seed,
            "languages": list(settings.languages),
            "licences": list(licences),
            "similarity": settings.similarity,
        },
        "not looked into": counted(counts.folders),
        "languages": counted(counts.languages),
        "licences": counted(counts.licences),
        "masked": {"e-mail addresses": counts.emails} if counts.emails else {},
        "files": counts.files.counts("used"),
        "functions": counts.functions.counts("used"),
        "tasks": {task: _task_counts(task, output) for task, output in outputs.items()},
    }


def _task_counts(task: str, output: TaskFile) -> dict[str, Any]:
    counts = output.tally.counts("records")
    if task == "repair":
        kinds = Counter(record["defect"]["kind"] for record in output.records())
        counts["defects"] = dict(kinds.most_common())
    return counts


def as_table(counts: dict[str, Any]) -> Table:
    """The counts of ``construct`` for a terminal: a line per task, and one each for files and functions."""
    shown = Table("", "used", "left out", "because")
    for column in shown.columns[1:3]:
        column.justify = "right"
    for name, count in {"files": counts["files"], "functions": counts["functions"], **counts["tasks"]}.items():
        used = count["records"] if "records" in count else count["used"]
        shown.add_row(
            name, f"{used:,}", f"{count['found'] - used:,}", _listed(count["left_out"]), end_section=name == "functions"
        )
    shown.caption = "; ".join(
        f"{name}: {_listed(counts[name])}"
        for name in ("languages", "licences", "not looked into", "masked")
        if counts[name]
    )
    return shown


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def require_records(counts: dict[str, Any]) -> None:
    """MftcoderError, with what may help, where no task has a record."""
    if any(count["records"] for count in counts["tasks"].values()):
        return
    remedy = "Name other folders or a larger max_chars."
    if any(reason.startswith("licence") for reason in counts["files"]["left_out"]):
        remedy = f"Name other folders, or, if you may use them, their licences (--licences permissive,{UNKNOWN})."
    raise MftcoderError(
        f"{', '.join(counts['roots'])}: no record could be made; left out were files {counts['files']['left_out']} "
        f"and functions {counts['functions']['left_out']}. {remedy}"
    )
