"""What was written and found out so far, in a file that survives a kill.

STEM.jsonl             a line for each completion: ``task_id``, ``sample``, ``completion``, ``finish``, and its verdict;
                       while it grows, verdicts are lines of their own
STEM.settings.json     what the completions depend on: others are not mixed with them
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from mftcoder.config.load import read_json
from mftcoder.config.problems import show
from mftcoder.errors import MftcoderError

Key = tuple[str, int]  # the problem's name, the number of the sample


class Store:
    """The lines of one benchmark and model, by key. MftcoderError if the file holds others' completions."""

    def __init__(self, folder: Path, stem: str, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{stem}.jsonl"
        _check_settings(folder / f"{stem}.settings.json", settings)
        self._lines: dict[Key, dict[str, Any]] = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                found = json.loads(line)
                self._lines.setdefault((found["task_id"], found["sample"]), {}).update(found)
            except (ValueError, KeyError, TypeError, AttributeError):  # torn, when the last run was killed
                continue
        self._growing: TextIO | None = None

    def get(self, key: Key, field: str) -> Any:
        """A field of a line, None where it is not known."""
        return self._lines.get(key, {}).get(field)

    def add(self, key: Key, **fields: Any) -> None:
        """Records fields of a line at once."""
        if self._growing is None:
            self._growing = self.path.open("a", encoding="utf-8", errors="backslashreplace")
            self._growing.write("\n" if self.path.stat().st_size else "")
        self._lines.setdefault(key, {}).update(fields)
        self._growing.write(_line(key, fields))
        self._growing.flush()

    def finish(self, order: Iterable[Key]) -> None:
        """Writes the file anew, a line for each key: those of ``order`` first, in that order."""
        self.close()
        keys = dict.fromkeys(key for key in (*order, *self._lines) if key in self._lines)
        replace(self.path, "".join(_line(key, self._lines[key]) for key in keys))

    def close(self) -> None:
        if self._growing is not None:
            self._growing.close()
            self._growing = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def replace(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(aside, path)


def _line(key: Key, fields: Mapping[str, Any]) -> str:
    task_id, sample = key
    return json.dumps({"task_id": task_id, "sample": sample} | dict(fields), ensure_ascii=False) + "\n"


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        replace(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    before = read_json(path)
    for name in settings.keys() | before.keys():
        if before.get(name) != settings.get(name):
            raise MftcoderError(
                f"{path.parent}: holds completions with another {name}: {show(before.get(name))}; "
                f"now it is {show(settings.get(name))}. Name another folder with --to."
            )
