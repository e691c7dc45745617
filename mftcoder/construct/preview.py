"""Some samples of a finished task for the eye: in the terminal, or as a page."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from mftcoder.construct.settings import ConstructConfig
from mftcoder.construct.yields import costs
from mftcoder.data.inspection import CONTEXT, SUPERVISED, visible
from mftcoder.report.made import Made, write_made

Record = dict[str, Any]
_SHOWN = ("topic", "style", "level", "axes", "transform", "into", "piece", "seeds", "end")  # of where a sample is from


def chosen(config: ConstructConfig, number: int) -> list[Made]:
    """``number`` samples of the task's file, evenly spread over it."""
    with (Path(config.out) / f"{config.task}.jsonl").open(encoding="utf-8") as file:
        total = sum(1 for _ in file)
        file.seek(0)
        step = max(1, total // number)
        return [
            Made(index * step + 1, _about(record), record["messages"])
            for index, record in enumerate(map(json.loads, islice(file, 0, step * number, step)))
        ]


def show(samples: Sequence[Made], console: Console, *, color: bool = True) -> None:
    """Print ``samples``; what is learnt is green."""
    for sample in samples:
        console.print(Rule(f"{sample.number}: {sample.about}", characters="═"))
        for message in sample.messages:
            console.print(Rule(message["role"], characters="·", align="left"))
            style = SUPERVISED if message["role"] == "assistant" else CONTEXT
            console.print(Text(visible(message["content"]), style if color else ""), soft_wrap=True)


def write_preview(config: ConstructConfig, manifest: dict[str, Any], samples: Sequence[Made], to: Path) -> Path:
    """Write a page with the yield of every step and ``samples`` to ``to``. MftcoderError if that is a folder."""
    title = f"{config.out}/{config.task}.jsonl"
    return write_made(title, manifest["steps"], costs(manifest["costs"]), manifest["samples"], samples, to)


def _about(record: Record) -> str:
    source = record["source"]
    known = [f"{name} {_plain(source[name])}" for name in _SHOWN if source.get(name)]
    return ", ".join([source["generator"], *known])


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
