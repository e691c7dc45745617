"""Datasets of the datasets library: folders of files, folders of save_to_disk, and a hub that lives in this process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import pytest

from mftcoder.config.schema import Task
from mftcoder.data.records import Text
from mftcoder.data.sources import source_files
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError

COMMIT = "0123456789abcdef" * 2 + "01234567"
CARD = """---
configs:
- config_name: python
  default: true
  data_files:
  - {split: train, path: "data/train-*.jsonl"}
  - {split: test, path: data/test.jsonl}
- config_name: java
  data_files: java.jsonl.gz
- config_name: text
  data_files: notes.txt
---
"""
FILES = {
    "README.md": CARD,
    "data/train-0.jsonl": '{"text": "a"}\n',
    "data/train-1.jsonl": '{"text": "b"}\n',
    "data/test.jsonl": '{"text": "c"}\n',
    "notes.txt": "a line",
    "unused.jsonl": "{}",
}


def task(**dataset: str) -> Task:
    return Task.model_validate({"name": "t", "dataset": dataset})


def texts(**dataset: str) -> list[str]:
    return [record.text for record in read_records(task(**dataset)) if isinstance(record, Text)]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(content)
    return str(tmp_path / "folder")


def test_the_card_of_a_folder_says_which_files_make_a_split(folder: str) -> None:
    assert texts(path=folder) == ["a", "b"]
    assert texts(path=folder, name="python", split="test") == ["c"]
    assert [str(file) for file in source_files(task(path=folder, split="test"))] == [f"{folder}/data/test.jsonl"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split": "dev"}, r'has no split "dev"; it has train, test\.'),
        ({"name": "rust"}, r"BuilderConfig 'rust' not found. Available: \['python', 'java', 'text'\]"),
        ({"name": "java"}, "is not available: "),
        ({"name": "text"}, r"notes\.txt is of no kind that is read: .* Convert it: datasets\.load_dataset"),
        ({"revision": "v1"}, "only datasets on the hub have a revision"),
    ],
)
def test_what_a_folder_does_not_hold_is_named(folder: str, asked: dict[str, str], message: str) -> None:
    with pytest.raises(MftcoderError, match=rf'data\.tasks "t": dataset {folder}: .*{message}'):
        source_files(task(path=folder, **asked))


def test_folders_of_save_to_disk_hold_what_was_saved(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(30)], "n": [[i, None] for i in range(30)]})
    chosen = whole.select([7, 3, 28])  # by indices, which are resolved when saving
    chosen.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": chosen}).save_to_disk(
        tmp_path / "all", num_shards={"train": 4, "test": 1}
    )
    assert texts(path=str(tmp_path / "one")) == datasets.load_from_disk(str(tmp_path / "one"))["text"][:]
    assert texts(path=str(tmp_path / "all")) == whole["text"][:]
    assert texts(path=str(tmp_path / "all"), split="test") == ["text 7", "text 3", "text 28"]
    assert len(source_files(task(path=str(tmp_path / "all")))) == 4
    with pytest.raises(MftcoderError, match=r'has no split "dev"; it has train, test\.'):
        texts(path=str(tmp_path / "all"), split="dev")
    with pytest.raises(MftcoderError, match="name: a folder that save_to_disk made holds one configuration"):
        texts(path=str(tmp_path / "one"), name="python")


def test_a_path_that_is_a_folder_of_save_to_disk_is_referred_to_the_key_dataset(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path)
    with pytest.raises(MftcoderError, match=rf'made by save_to_disk\. Give "dataset": {{"path": "{tmp_path}"}}'):
        source_files(Task(name="t", path=str(tmp_path)))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as reading the dataset org/name takes."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/datasets/org/name/tree/{COMMIT}"):
            self.answer(self.listing(path.removeprefix(f"/api/datasets/org/name/tree/{COMMIT}").strip("/")))
        elif path in ("/api/datasets/org/name", f"/api/datasets/org/name/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer({"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            _, _, name = path.removeprefix("/datasets/org/name/resolve/").partition("/")
            code = "EntryNotFound" if "org/name/resolve" in path else "RepoNotFound"
            if "/revision/" in path or "/resolve/v9" in path:
                code = "RevisionNotFound"
            self.answer(FILES.get(name) if code == "EntryNotFound" else None, code)

    do_HEAD = do_GET  # noqa: N815 - the name that the base class calls

    def listing(self, folder: str) -> list[dict[str, Any]]:
        inside = [name.removeprefix(f"{folder}/") for name in FILES if name.startswith(f"{folder}/" if folder else "")]
        if "recursive=true" in self.path.lower():
            kinds = dict.fromkeys(inside, "file")
        else:
            kinds = {name.split("/")[0]: "directory" if "/" in name else "file" for name in inside}
        return [{"type": kinds[n], "path": f"{folder}/{n}".lstrip("/"), "size": 1, "oid": "0" * 40} for n in kinds]

    def answer(self, content: Any, error: str = "") -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", hashlib.sha1(body).hexdigest())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


READ = """
import json, sys
from mftcoder.config.schema import Task
from mftcoder.data.sources import source_files
from mftcoder.errors import MftcoderError
for dataset in json.loads(sys.argv[1]):
    try:
        files = source_files(Task.model_validate({"name": "t", "dataset": dataset}))
        print(json.dumps([[str(file), file.read_text()] for file in files]))
    except MftcoderError as error:
        print(json.dumps(str(error)))
"""


def read_elsewhere(cache: Path, asked: list[dict[str, str]], **environment: str) -> list[Any]:
    """What another process finds, as these libraries read their settings when they are imported."""
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", READ, json.dumps(asked)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_datasets_of_the_hub_are_downloaded_once_and_found_again_without_it(hub: str, tmp_path: Path) -> None:
    asked = [
        {"path": "org/name"},
        {"path": "org/name", "split": "test"},
        {"path": "org/name", "split": "dev"},
        {"path": "org/name", "revision": COMMIT},
        {"path": "org/name", "revision": "v9"},
        {"path": "org/none"},
    ]
    train, test, dev, pinned, revision, none = read_elsewhere(tmp_path, asked, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    snapshot = f"{tmp_path}/hub/datasets--org--name/snapshots/{COMMIT}"
    assert (
        train
        == pinned
        == [[f"{snapshot}/{name}", FILES[name]] for name in ("data/train-0.jsonl", "data/train-1.jsonl")]
    )
    assert test == [[f"{snapshot}/data/test.jsonl", FILES["data/test.jsonl"]]]
    assert dev == 'data.tasks "t": dataset org/name: has no split "dev"; it has train, test.'
    assert "org/name: is not available: Revision 'v9' doesn't exist" in revision
    assert "org/none: is not available: Dataset 'org/none' doesn't exist on the Hub" in none
    assert not Path(snapshot, "unused.jsonl").exists()

    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    *found, absent = read_elsewhere(tmp_path, [*asked[:4], asked[-1]], **offline)
    assert found == [train, test, dev, pinned]
    assert absent.startswith('data.tasks "t": dataset org/none: is not available: ')

    Path(snapshot, "data/train-1.jsonl").unlink()  # as after a download that was cut off
    (incomplete,) = read_elsewhere(tmp_path, asked[:1], **offline)
    assert "is incomplete: 1 file(s) are missing (data/train-1.jsonl)" in incomplete
