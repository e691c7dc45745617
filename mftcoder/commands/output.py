"""How commands print and write."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from mftcoder.errors import MftcoderError

TABLE_WIDTH = 160  # columns, where the output is no terminal


def show(arguments: Namespace, content: Any, table: Any) -> None:
    if arguments.json:
        print_json(content)
    else:
        console().print(table)


def console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)


def print_json(content: Any) -> None:
    print(to_json(content))


def to_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise MftcoderError(
            f"{path}: cannot be written: {error.strerror}. Name a file in a folder that exists."
        ) from None
    tell(f"wrote {path}")


def tell(message: str) -> None:
    print(message, file=sys.stderr)


def print_piece(piece: str) -> None:
    print(piece, end="", flush=True)
