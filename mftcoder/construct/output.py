"""Task files written aside and put in place when all of them are complete, with a count of everything left out."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, ParamSpec, TypeVar

from mftcoder.construct.functions import LeftOut
from mftcoder.errors import MftcoderError

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Tally:
    """How many things were found and used, and why the others were left out: found = used + left out."""

    def __init__(self) -> None:
        self.used = 0
        self.left_out: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def attempt(self, make: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made | None:
        """What ``make`` returns, counted; None where it raises LeftOut, whose reason is counted."""
        try:
            made = make(*args, **kwargs)
        except LeftOut as reason:
            self.left_out[str(reason)] += 1
            return None
        self.used += 1
        return made

    def once(self, text: str) -> None:
        """Raises LeftOut where the same text, whitespace aside, was here before."""
        digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
        if digest in self._seen:
            raise LeftOut("duplicate")
        self._seen.add(digest)

    def counts(self, used: str) -> dict[str, Any]:
        """The counts as JSON, reasons by falling number; ``used`` names the number of things used."""
        reasons = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        return {"found": self.used + self.left_out.total(), used: self.used, "left_out": dict(reasons)}


class TaskFile:
    """``<task>.jsonl`` in the making."""

    def __init__(self, out: Path, task: str) -> None:
        self.tally = Tally()
        self._path = out / f"{task}.jsonl"
        self._aside = out / f".{task}.jsonl.partial"
        self._file = self._aside.open("w+b")

    def write(self, record: dict[str, Any]) -> None:
        self.write_line(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def write_line(self, line: bytes) -> None:
        """Writes a record that is JSON already."""
        self._file.write(line)

    def keep(self, max_samples: int, rng: Random) -> None:
        """Keeps ``max_samples`` of the records, drawn uniformly, in their order."""
        excess = self.tally.used - max_samples
        if excess <= 0:
            return
        self.keep_only(set(rng.sample(range(self.tally.used), max_samples)))
        self.tally.used = max_samples
        self.tally.left_out["over max_samples"] = excess

    def keep_only(self, kept: Container[int]) -> None:
        """Keeps the records of these numbers, counted from 0, in their order; the tally stays as it is."""
        end = 0
        self._file.seek(0)
        for number in count():
            if not (line := self._file.readline()):
                break
            if number in kept:
                following = self._file.tell()
                self._file.seek(end)
                end += self._file.write(line)
                self._file.seek(following)
        self._file.truncate(end)

    def records(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return map(json.loads, self._file)

    def checksum(self) -> str:
        """Of what is written so far: 32 hexadecimal digits."""
        self._file.seek(0)
        digest = hashlib.blake2b(digest_size=16)
        for line in self._file:
            digest.update(line)
        self._file.seek(0, os.SEEK_END)
        return digest.hexdigest()

    def publish(self) -> None:
        self._file.close()
        os.replace(self._aside, self._path)

    def discard(self) -> None:
        """Removes what was not published."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


@contextmanager
def task_files(out: Path, tasks: Sequence[str]) -> Iterator[dict[str, TaskFile]]:
    """A file for each task; those not published by the end are removed.

    Raises MftcoderError where ``out`` cannot be written.
    """
    files: dict[str, TaskFile] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for task in dict.fromkeys(tasks):
            files[task] = TaskFile(out, task)
        yield files
    except OSError as error:
        raise MftcoderError(f"{out}: cannot be written ({error.strerror}). Choose another folder.") from error
    finally:
        for file in files.values():
            file.discard()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes ``value`` aside, then puts it in place."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
