"""A small tree of real source: a few modules of the standard library, copied."""

import shutil
import sysconfig
from pathlib import Path

import pytest

MODULES = ["bisect.py", "copy.py", "json", "shlex.py", "textwrap.py"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for name in MODULES:
        source = Path(sysconfig.get_path("stdlib"), name)
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root
