"""Looking into shards: rows decoded back to text, what is supervised in colour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Model, TemplateChat
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.shards import Row, Shards

SUPERVISED, CONTEXT = "bold green", "dim"


class Stretch(NamedTuple):
    """Neighbouring tokens of a segment that are all supervised, or all not."""

    text: str
    supervised: bool


def show(
    shards_path: str | Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    task: str | None = None,
    split: str = "train",
    rows: int = 3,
    color: bool = True,
    console: Console | None = None,
) -> None:
    """Print the first ``rows`` rows of ``task`` (default: of every task); supervised text is green, or «quoted».

    Without ``tokenizer`` the one that the manifest names is loaded. Raises MftcoderError if task or split do not exist.
    """
    console = console or Console(no_color=not color, highlight=False)
    for name, index, row, segments in _decoded_rows(shards_path, tokenizer, task, split, rows):
        supervised = f"{np.count_nonzero(row.supervised)} of {len(row.input_ids)} tokens supervised"
        console.print(Rule(f"{name} / {split} / row {index}: {len(segments)} samples, {supervised}", characters="═"))
        for sample_id, length, segment in zip(row.sample_ids, row.segment_lengths, segments, strict=True):
            console.print(Rule(f"sample {sample_id}: {length} tokens", characters="·", align="left"))
            console.print(_styled(segment, color), soft_wrap=True)


def as_json(
    shards_path: str | Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    task: str | None = None,
    split: str = "train",
    rows: int = 3,
) -> list[dict[str, Any]]:
    """What ``show`` prints, as JSON-ready rows of samples of stretches of text."""
    return [
        {
            "task": name,
            "split": split,
            "row": index,
            "samples": [
                {"id": int(sample_id), "tokens": int(length), "stretches": [stretch._asdict() for stretch in segment]}
                for sample_id, length, segment in zip(row.sample_ids, row.segment_lengths, segments, strict=True)
            ],
        }
        for name, index, row, segments in _decoded_rows(shards_path, tokenizer, task, split, rows)
    ]


def _decoded_rows(
    shards_path: str | Path, tokenizer: PreTrainedTokenizerFast | None, task: str | None, split: str, count: int
) -> Iterator[tuple[str, int, Row, list[list[Stretch]]]]:
    shards = Shards.open(shards_path)
    if tokenizer is None:
        made_with = shards.manifest.inputs.tokenizer
        tokenizer = load_tokenizer(Model(path=made_with.path, revision=made_with.revision), TemplateChat())
    for name in [task] if task else shards.tasks:
        rows = shards.rows(name, split)
        for index in range(min(count, len(rows))):
            yield name, index, rows[index], _segments(rows[index], tokenizer)


def _segments(row: Row, tokenizer: PreTrainedTokenizerFast) -> list[list[Stretch]]:
    cuts = np.cumsum(row.segment_lengths)[:-1]
    return [
        _stretches(ids, supervised, tokenizer)
        for ids, supervised in zip(np.split(row.input_ids, cuts), np.split(row.supervised, cuts), strict=True)
    ]


def _stretches(ids: np.ndarray, supervised: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> list[Stretch]:
    cuts = np.flatnonzero(supervised[1:] != supervised[:-1]) + 1
    return [
        Stretch(tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False), bool(mask[0]))
        for part, mask in zip(np.split(ids, cuts), np.split(supervised, cuts), strict=True)
    ]


def _styled(segment: list[Stretch], color: bool) -> Text:
    if color:
        return Text.assemble(*((stretch.text, SUPERVISED if stretch.supervised else CONTEXT) for stretch in segment))
    return Text("".join(f"«{stretch.text}»" if stretch.supervised else stretch.text for stretch in segment))
