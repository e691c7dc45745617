"""A small tree of real source: a few modules of the standard library, copied. Configs that ask a server on loopback."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from construct_project import KEY, Made, write_config
from endpoint import Script, Server

from mftcoder.construct.pipeline import run
from mftcoder.construct.settings import load

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


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], Server]]:
    """A function: a server that says what a script tells it; the environment names it as the endpoint."""
    servers: list[Server] = []

    def started(script: Script) -> Server:
        servers.append(Server(script).__enter__())
        monkeypatch.setenv("OPENAI_BASE_URL", servers[-1].url)
        return servers[-1]

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    yield started
    for server in servers:
        server.__exit__()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """A function: runs a config of that generator, with further sections; a folder's name tells runs apart."""

    def made(generator: dict[str, Any], out: str = "out", retry_failed: bool = False, **sections: Any) -> Made:
        path = write_config(tmp_path, generator, out, **sections)
        told: list[str] = []
        run(load(path), retry_failed=retry_failed, tell=told.append)
        return Made(tmp_path / out, told)

    return made
