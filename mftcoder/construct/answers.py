"""Every answer that was ever paid for, in one file: a line each, found by the hash of its request.

A line is written as soon as the answer is there and before anything is made of it, so a process that is killed leaves
at most a torn last line, which is cut off when the file is opened again.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mftcoder.errors import MftcoderError

Body = Mapping[str, Any]  # a request as it is sent


class Answer(NamedTuple):
    """What came of a request."""

    key: str
    text: str
    finish: str  # as the endpoint says: stop, length, content_filter …
    prompt_tokens: int
    completion_tokens: int
    counted: bool  # whether the endpoint told the tokens; else they are estimated
    failure: str = ""  # why there is no answer


def key_of(body: Body, draw: int) -> str:
    """32 hexadecimal digits: the same for the same request; ``draw`` tells repetitions of one request apart."""
    content = json.dumps([body, draw], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Answers:
    """The recorded answers of a task; in memory are their places only.

    ``requests``, ``prompt_tokens`` and ``completion_tokens`` are the sums over all that were paid for.
    """

    def __init__(self, path: Path, *, retry_failed: bool = False) -> None:
        """Opens the file, or begins it; failures in it are forgotten if they are to be asked again.

        Raises MftcoderError if a line other than a torn last one is broken.
        """
        self._path = path
        self._places: dict[str, int] = {}
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._read(retry_failed)

    def get(self, key: str) -> Answer | None:
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place)
        return _answer(json.loads(self._file.readline()))

    def add(self, answer: Answer, body: Body) -> None:
        """Records an answer; it is on its way to the disk when this returns."""
        line = json.dumps({**answer._asdict(), "request": body}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._file.seek(0, os.SEEK_END)
        place = self._file.tell()
        self._file.write(line + b"\n")
        self._file.flush()
        self._count(answer, place)

    def close(self) -> None:
        self._file.close()

    def _read(self, retry_failed: bool) -> None:
        self._file.seek(0)
        place = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                return
            try:
                answer = _answer(json.loads(line))
            except (ValueError, KeyError, TypeError):
                raise MftcoderError(
                    f"{self._path}:{number}: is no recorded answer. Take the line out; its request is asked again."
                ) from None
            if not (retry_failed and answer.failure):
                self._count(answer, place)
            place += len(line)

    def _count(self, answer: Answer, place: int) -> None:
        self._places[answer.key] = place
        if not answer.failure:
            self.requests += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens


def _answer(record: dict[str, Any]) -> Answer:
    return Answer(**{name: record[name] for name in Answer._fields})
