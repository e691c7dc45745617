"""Task files and shards on a web server that knows nothing but files."""

from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from mftcoder.config.schema import Task
from mftcoder.data.manifest import Manifest
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.errors import MftcoderError

pytest.importorskip("aiohttp", reason="fsspec opens http:// with it")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL at which ``tmp_path`` is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_task_files_and_shards_are_read_from_a_web_server(
    web: str, make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFTCODER_CACHE", str(tmp_path / "cache"))
    local = make_config({"t": [{"text": f"def add{i}(a, b):\n    return a + b\n"} for i in range(30)]})
    made = prepare(local, tell=lambda _: None)
    for number, path in enumerate([f"{web}/t.jsonl", f"{web}/t.*"]):
        data = local.data.model_copy(update={"tasks": [Task(name="t", path=path)]})
        remote = local.model_copy(update={"output_dir": str(tmp_path / f"run-{number}"), "data": data})
        assert prepare(remote, tell=lambda _: None).fingerprint == made.fingerprint

    at = f"{web}/{shards_path(local).relative_to(tmp_path)}"
    shards = Shards.open(at, verify="full")
    assert shards.manifest == Manifest.read(shards_path(local))
    assert shards.folder.is_relative_to(tmp_path / "cache")
    for row, expected in zip(shards.rows("t"), Shards.open(shards_path(local)).rows("t"), strict=True):
        np.testing.assert_array_equal(row.input_ids, expected.input_ids)
    with pytest.raises(MftcoderError, match=rf"{web}/nowhere: holds no manifest\.json"):
        Shards.open(f"{web}/nowhere")
