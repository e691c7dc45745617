"""A JSON file, and what the command line changes in it, to a checked ``Config``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from mftcoder.config import checks, problems
from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.json_values import TOO_DEEP, check_values
from mftcoder.plugins import load_plugins


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config in the JSON file ``path``, after ``overrides`` such as ``training.learning_rate=1e-5``.

    Imports its plugins. Raises MftcoderError that lists every problem of the file. Relative paths in a config are
    relative to the working directory, not to the config.
    """
    raw = read_json(path)
    for override in overrides:
        apply_override(raw, override)
    config = parse(raw, where=str(path))
    load_plugins(config.plugins)
    return config


def parse(raw: dict[str, Any], where: str = "config") -> Config:
    """A checked ``Config`` from JSON values; ``where`` begins every line of the error."""
    raw = {key: value for key, value in raw.items() if key != "$schema"}  # editors want it; it has no meaning here
    try:
        config = Config.model_validate(raw)
        found = checks.contradictions(config)
    except ValidationError as error:
        found = problems.of_schema(error, raw)
    if found:
        raise MftcoderError("\n".join(f"{where}: {problem}" for problem in found))
    return config


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. Raises MftcoderError with line and column where it is broken."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MftcoderError(f"{path}: no such file. Relative paths start at {Path.cwd()}.") from None
    except UnicodeDecodeError as error:
        raise MftcoderError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise MftcoderError(f"{path}: cannot be read: {error.strerror}. A readable JSON file is needed.") from None
    if not text.strip():
        raise MftcoderError(f'{path}: the file is empty. It must hold a JSON object: {{"output_dir": …}}.')
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise MftcoderError(f"{path}:{error.lineno}:{error.colno}: broken JSON: {error.msg}.") from None
    except ValueError as error:
        raise MftcoderError(f"{path}: {error}") from None
    except RecursionError:
        raise MftcoderError(f"{path}: {TOO_DEEP}") from None
    check_values(value, str(path), names=True)
    if not isinstance(value, dict):
        raise MftcoderError(f"{path}: must hold a JSON object; found {problems.show(value)}.")
    return value


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Change ``raw`` in place: ``training.learning_rate=1e-5``, ``data.tasks.0.path=x.jsonl``.

    The value is JSON, or a string if it is no JSON. Sections that are missing are made.
    """
    dotted, equals, text = override.partition("=")
    *parents, last = parts = dotted.split(".")
    if not equals or not all(parts):
        raise MftcoderError(f"--set {override}: must be KEY=VALUE, e.g. --set training.learning_rate=1e-5.")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        value = text
    except RecursionError:
        raise MftcoderError(f"--set {dotted}: {TOO_DEEP}") from None
    check_values([parts, value], f"--set {dotted}", names=True)
    node: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[_index(node, part, parts[:depth], override)]
    node[_index(node, last, parents, override)] = value


def _index(node: Any, part: str, before: list[str], override: str) -> str | int:
    """``part`` as an index into ``node``."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part in map(str, range(len(node))):
        return int(part)
    kind = f"a list of {len(node)}: give an index below that" if isinstance(node, list) else problems.show(node)
    raise MftcoderError(f'--set {override}: there is no "{part}" in {".".join(before)}, which is {kind}.')


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value. Give a finite number.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{repeated}" stands twice in one object. Delete one of them.')
    return values
