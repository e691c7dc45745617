"""JSON that somebody else wrote, and values in it that no part of the program could go on with."""

import json
import re
from typing import Any

from mftcoder.errors import MftcoderError

DEEPEST = 100  # lists and objects in each other: far from where the libraries that see a value stop recursing
TOO_DEEP = f"lists and objects are nested more than {DEEPEST} deep. Flatten them."
LONGEST_RECORD = 64 * 2**20  # bytes: a line, an element of an array, or a row of a table
_SURROGATE = re.compile("[\ud800-\udfff]")
_PASSWORD = re.compile(r"://[^/@\s:]*:[^/@\s]+@|https?://[^/@\s]+@")  # or a token, in a URL


def parse_json(text: str | bytes, where: str, **hooks: Any) -> Any:
    """The value that ``text`` spells; MftcoderError that begins with ``where`` if it is not valid JSON."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise MftcoderError(f"{where}: {TOO_DEEP}") from None
    except ValueError as error:  # a JSONDecodeError, or an integer of too many digits
        raise MftcoderError(f"{where}: not valid JSON: {error}.") from error


def too_long(where: str, remedy: str) -> MftcoderError:
    """The error for a record at ``where`` that has more than ``LONGEST_RECORD`` bytes."""
    return MftcoderError(f"{where}: is longer than {LONGEST_RECORD:,} bytes, the most that a record may have; {remedy}")


def check_values(value: Any, where: str, *, names: bool = False) -> None:
    """MftcoderError that begins with ``where`` if ``value`` holds half a character or is nested too deeply.

    With ``names``, of files and URLs among others, also if it holds a NUL character, which no name can, or a password,
    which would go into the files that a run leaves behind; the message does not repeat it.
    """
    level = [value]
    for _ in range(DEEPEST):
        for text in level:
            if not isinstance(text, str):
                continue
            if found := _SURROGATE.search(text):
                raise MftcoderError(
                    f"{where}: holds a lone surrogate, {json.dumps(found[0])}: half of a character, as when an emoji "
                    "is cut in two. Remove it, or write the whole character."
                )
            if names and "\0" in text:
                raise MftcoderError(f"{where}: holds a NUL character, which no path can have. Remove it.")
            if names and _PASSWORD.search(text):
                raise MftcoderError(
                    f"{where}: holds a URL with a password or token, which every file of the run would repeat. Take it "
                    "out of the URL; file systems and endpoints find theirs in the environment."
                )
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in ([*node, *node.values()] if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise MftcoderError(f"{where}: {TOO_DEEP}")
