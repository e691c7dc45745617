"""Prompt templates: files of this package, or the user's in their place; each is known by its name and its hash."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from mftcoder.config.problems import nearest
from mftcoder.errors import MftcoderError

_HASH_DIGITS = 16


class Prompts:
    """The templates of one generator."""

    def __init__(self, generator: str, replaced: Mapping[str, str], more: tuple[str, ...] = ()) -> None:
        """``replaced``: name to the user's file; ``more``: names that only the user's files have.

        Raises MftcoderError for a name that the generator does not have, and files that cannot be read or parsed.
        """
        folder = files("mftcoder.construct") / "templates" / generator
        texts = {
            entry.name.removesuffix(".txt"): (entry.name, entry.read_text(encoding="utf-8"))
            for entry in folder.iterdir()
            if entry.name.endswith(".txt")
        }
        for name, path in replaced.items():
            if name not in texts and name not in more:
                hint = nearest(name, list(texts)) or f" It has {', '.join(sorted(texts))}."
                raise MftcoderError(f"generator.prompts.{name}: {generator} has no such prompt{hint}")
            texts[name] = (path, _read(path, name))
        environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self._templates: dict[str, Template] = {}
        for name, (where, text) in texts.items():
            try:
                self._templates[name] = environment.from_string(text)
            except TemplateError as error:
                raise MftcoderError(f"{where}: is no Jinja template: {error}.") from None
        self.hashes = {
            name: hashlib.blake2b(text.encode()).hexdigest()[:_HASH_DIGITS] for name, (_, text) in texts.items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._templates

    def text(self, name: str, **values: Any) -> str:
        """The prompt, with ``values`` in their places. Raises MftcoderError where the template asks for others."""
        try:
            return self._templates[name].render(values).strip()
        except TemplateError as error:
            raise MftcoderError(
                f"generator.prompts.{name}: {error}. The values it may use are {', '.join(values)}."
            ) from None


def _read(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MftcoderError(f"generator.prompts.{name}: {path} cannot be read: {error}.") from None
