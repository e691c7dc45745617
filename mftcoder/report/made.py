"""Samples that were made for a task, and what became of the others, as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mftcoder.data.inspection import visible
from mftcoder.report.markup import check_is_file, render, write_page


class Made(NamedTuple):
    """A sample of a task file."""

    number: int  # its line
    about: str  # where it comes from
    messages: Sequence[Mapping[str, str]]  # role and content


def write_made(title: str, steps: Mapping[str, Any], costs: str, total: int, samples: Sequence[Made], to: Path) -> Path:
    """Write the page about ``samples`` of ``total``, made in ``steps``, to the file ``to`` and return it.

    Raises MftcoderError if ``to`` is a folder.
    """
    check_is_file(to)
    page = render(
        "made.html",
        styles=["samples.css"],
        command="construct",
        title=title,
        steps=steps,
        costs=costs,
        total=total,
        samples=samples,
        visible=visible,
    )
    return write_page(page, to)
