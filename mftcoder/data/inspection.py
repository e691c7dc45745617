"""Looking into shards: rows decoded back to text, what is supervised in colour."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Model, TemplateChat
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.manifest import Manifest
from mftcoder.data.shards import Row, Rows, Shards
from mftcoder.errors import MftcoderError

SUPERVISED, CONTEXT = "bold green", "dim"

_HIDDEN = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_VISIBLE = {code: chr(0x2400 + code) if code < 32 else f"<U+{code:04X}>" for code in _HIDDEN}


class Stretch(NamedTuple):
    """Neighbouring tokens of a segment that are all supervised, or all not."""

    text: str
    tokens: int
    supervised: bool


class Sample(NamedTuple):
    """A segment of a row."""

    id: int  # unique within the task
    tokens: int
    stretches: list[Stretch]

    @property
    def supervised_tokens(self) -> int:
        return sum(stretch.tokens for stretch in self.stretches if stretch.supervised)


class Excerpt(NamedTuple):
    """A row, or some of its samples."""

    task: str
    split: str
    row: int
    tokens: int  # of the whole row
    num_samples: int  # of the whole row
    samples: list[Sample]


@dataclass(frozen=True)
class Query:
    """What to look at: whole rows; or single samples, if ``sample``, ``grep`` or ``order`` is given.

    Attributes:
        task: default: every task.
        row: only this row.
        sample: only the sample of this id.
        grep: only samples whose text this regular expression matches.
        order: "longest" or "shortest" samples first.
        limit: rows, or samples, of each task.
    """

    task: str | None = None
    split: str = "train"
    row: int | None = None
    sample: int | None = None
    grep: str | None = None
    order: str | None = None
    limit: int = 3

    @property
    def by_sample(self) -> bool:
        return (self.sample, self.grep, self.order) != (None, None, None)


def find(shards: Shards, query: Query, tokenizer: PreTrainedTokenizerFast | None = None) -> Iterator[Excerpt]:
    """What ``query`` asks for, decoded by the tokenizer that the manifest names or by ``tokenizer``.

    Raises MftcoderError if there is no such task, split, row or sample, or ``grep`` is no regular expression.
    """
    try:
        pattern = re.compile(query.grep) if query.grep is not None else None
    except re.error as error:
        raise MftcoderError(f'--grep: must be a regular expression; found "{query.grep}": {error}.') from None
    tasks = {name: shards.rows(name, query.split) for name in ([query.task] if query.task else shards.tasks)}
    _check_present(tasks, query)
    decoder = tokenizer or _tokenizer(shards.manifest)
    for name, rows in tasks.items():
        for row, segments in _chosen(rows, query, pattern, decoder):
            whole = rows[row]
            samples = [_sample(whole, segment, decoder) for segment in segments]
            num_segments = len(whole.segment_lengths)
            yield Excerpt(name, query.split, row, len(whole.input_ids), num_segments, samples)


def _check_present(tasks: dict[str, Rows], query: Query) -> None:
    held = ", ".join(f"{name} {len(rows)}" for name, rows in tasks.items())
    if query.row is not None and all(query.row >= len(rows) for rows in tasks.values()):
        raise MftcoderError(f"--row {query.row}: there is no such row; rows in split {query.split}: {held}.")
    if query.sample is not None and not any(query.sample in row.sample_ids for rows in tasks.values() for row in rows):
        raise MftcoderError(
            f"--sample {query.sample}: there is no such sample in split {query.split} of {', '.join(tasks)}. "
            "Another --split may hold it."
        )


def _chosen(
    rows: Rows, query: Query, pattern: re.Pattern[str] | None, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[int, Iterable[int]]]:
    """Rows of a task, each with the segments of it to show."""
    numbers = range(len(rows)) if query.row is None else range(query.row, min(query.row + 1, len(rows)))
    if not query.by_sample:
        yield from ((row, range(len(rows[row].segment_lengths))) for row in numbers[: query.limit])
        return
    places = [
        (int(length), row, segment)
        for row in numbers
        for segment, (length, sample) in enumerate(zip(rows[row].segment_lengths, rows[row].sample_ids, strict=True))
        if query.sample in (None, sample)
    ]
    if query.order:
        places.sort(key=lambda place: place[0], reverse=query.order == "longest")
    left = query.limit
    for _, row, segment in places:
        if left and (
            pattern is None or pattern.search(_decode(rows[row].input_ids[_extent(rows[row], segment)], tokenizer))
        ):
            left -= 1
            yield row, [segment]


def _extent(row: Row, segment: int) -> slice:
    end = int(row.segment_lengths[: segment + 1].sum())
    return slice(end - int(row.segment_lengths[segment]), end)


def _sample(row: Row, segment: int, tokenizer: PreTrainedTokenizerFast) -> Sample:
    extent = _extent(row, segment)
    ids, supervised = row.input_ids[extent], row.supervised[extent]
    cuts = np.flatnonzero(supervised[1:] != supervised[:-1]) + 1
    stretches = [
        Stretch(_decode(part, tokenizer), len(part), bool(mask[0]))
        for part, mask in zip(np.split(ids, cuts), np.split(supervised, cuts), strict=True)
    ]
    return Sample(int(row.sample_ids[segment]), len(ids), stretches)


def _decode(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _tokenizer(manifest: Manifest) -> PreTrainedTokenizerFast:
    made_with = manifest.inputs.tokenizer
    return load_tokenizer(
        Model(path=made_with.path, revision=made_with.revision, new_tokens=made_with.new_tokens), TemplateChat()
    )


def visible(text: str) -> str:
    """``text`` in which characters that would steer a terminal or turn the direction of writing are shown instead."""
    return text.translate(_VISIBLE)


def heading(excerpt: Excerpt) -> str:
    """Task, split, row, and how much of it is shown."""
    shown, noun = len(excerpt.samples), "sample" if excerpt.num_samples == 1 else "samples"
    of = f" of {excerpt.num_samples}" if shown < excerpt.num_samples else ""
    return f"{excerpt.task} / {excerpt.split} / row {excerpt.row}: {shown}{of} {noun}, {excerpt.tokens} tokens"


def show(excerpts: Iterable[Excerpt], console: Console, *, color: bool = True) -> None:
    """Print ``excerpts``; supervised text is green, or «quoted»."""
    for excerpt in excerpts:
        console.print(Rule(heading(excerpt), characters="═"))
        for sample in excerpt.samples:
            counts = f"sample {sample.id}: {sample.tokens} tokens, {sample.supervised_tokens} supervised"
            console.print(Rule(counts, characters="·", align="left"))
            console.print(_styled(sample.stretches, color), soft_wrap=True)


def as_json(excerpts: Iterable[Excerpt]) -> list[dict[str, Any]]:
    """The same as JSON-ready values."""
    return [
        excerpt._asdict()
        | {
            "samples": [
                sample._asdict() | {"stretches": [stretch._asdict() for stretch in sample.stretches]}
                for sample in excerpt.samples
            ]
        }
        for excerpt in excerpts
    ]


def _styled(stretches: list[Stretch], color: bool) -> Text:
    if color:
        return Text.assemble(*((visible(part.text), SUPERVISED if part.supervised else CONTEXT) for part in stretches))
    return Text("".join(f"«{visible(part.text)}»" if part.supervised else visible(part.text) for part in stretches))
