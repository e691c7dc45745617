"""Versions of this program and of what it stands on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "tokenizers", "datasets", "pyarrow", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages among PACKAGES."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
