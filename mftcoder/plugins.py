"""Packages of the user that add rows to the tables of the program (``plugins`` in a config)."""

import importlib
import sys
from collections.abc import Sequence

from mftcoder.errors import MftcoderError

loaded: list[str] = []  # in this process; those that it starts must load them too


def load_plugins(names: Sequence[str]) -> None:
    """Import each of ``names``, as from the working directory; MftcoderError if one cannot be imported."""
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # code of the user's: it can fail in any way
            raise MftcoderError(
                f'plugins: "{name}" cannot be imported: {type(error).__name__}: {error}. '
                "Install it, or start where it lies."
            ) from error
        if name not in loaded:
            loaded.append(name)
