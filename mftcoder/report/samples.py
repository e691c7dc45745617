"""Samples of shards as one self-contained HTML page. No request leaves it, and no text of a sample can run."""

from collections.abc import Iterable
from pathlib import Path

from mftcoder.data.inspection import Excerpt, Query, heading, visible
from mftcoder.data.shards import Shards
from mftcoder.report.markup import check_is_file, render, write_page


def write_samples(shards: Shards, query: Query, excerpts: Iterable[Excerpt], to: Path) -> Path:
    """Write the page about ``excerpts``, which ``query`` found, to the file ``to`` and return it.

    Raises MftcoderError if ``to`` is a folder.
    """
    check_is_file(to)
    asked = [f"{key} {value}" for key, value in vars(query).items() if value is not None]
    page = render(
        "samples.html",
        styles=["samples.css"],
        command="inspect",
        title=shards.folder,
        shards=shards,
        asked=", ".join(asked),
        excerpts=list(excerpts),
        heading=heading,
        visible=visible,
    )
    return write_page(page, to)
