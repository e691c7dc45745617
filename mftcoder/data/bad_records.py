"""Records that cannot be read, parsed or encoded: passed over up to ``data.max_bad_records`` of a task, and listed."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from mftcoder.config.schema import Section
from mftcoder.errors import MftcoderError

LISTED = "bad_records.jsonl"  # in the folder of the shards; where there are too many, beside it, with its name before
SHOWN = 10


class BadRecord(Section):
    """A record that was passed over."""

    place: str  # behind the path of its file: ":418" or "[417]"
    reason: str


class TooManyBadError(MftcoderError):
    """A part of a file holds more bad records than its whole task may have."""

    def __init__(self, bad: list[BadRecord]) -> None:
        super().__init__(bad)
        self.bad = bad


class BadRecords:
    """Takes the errors of the bad records of the file ``path`` until there are more than ``limit``.

    Raises errors that are not about one record, and with ``limit`` 0 all of them, as they are.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._found: list[tuple[int, BadRecord]] = []

    def __call__(self, error: MftcoderError) -> None:
        message = str(error).removeprefix(str(self._path))
        place = re.match(r"(:(\d+)|\[(\d+)\]): ", message)
        if not place or message == str(error) or self._limit == 0:
            raise error
        self._found.append((int(place[2] or place[3]), BadRecord(place=place[1], reason=message[place.end() :])))
        if len(self._found) > self._limit:
            raise TooManyBadError(self.in_order())

    def in_order(self) -> list[BadRecord]:
        """Those found, as they stand in the file."""
        return [record for _, record in sorted(self._found, key=lambda found: found[0])]


class Budget:
    """Adds up the bad records of each task; raises when one has more than ``limit``, and lists all in ``listed``."""

    def __init__(self, limit: int, listed: Path) -> None:
        self.limit, self._listed = limit, listed
        self._lines: dict[str, list[dict[str, str]]] = {}

    def add(self, task: str, path: Path, bad: Iterable[BadRecord]) -> None:
        """Take the records ``bad`` of the file ``path`` of ``task``."""
        lines = self._lines.setdefault(task, [])
        lines += as_lines(task, path, bad)
        if len(lines) > self.limit:
            write_list(self._listed, (line for some in self._lines.values() for line in some))
            first = "\n".join(f"  {line['where']}: {line['reason']}" for line in lines[:SHOWN])
            raise MftcoderError(
                f'task "{task}": more than {self.limit:,} bad records (data.max_bad_records); those found by now are '
                f"listed in {self._listed}. Mend them, or allow more. The first:\n{first}"
            )


def as_lines(task: str, path: Path, bad: Iterable[BadRecord]) -> list[dict[str, str]]:
    """What is listed of the records ``bad`` of the file ``path``."""
    return [{"task": task, "where": f"{path}{record.place}", "reason": record.reason} for record in bad]


def write_list(file: Path, lines: Iterable[dict[str, str]]) -> None:
    """Write JSON Lines."""
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
