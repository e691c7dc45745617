"""Pushing to a hub: what arrives is what was exported, whatever happens on the way, and the token stays here."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, Fault, HubServer, hub
from huggingface_hub import constants
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.errors import MftcoderError, RunError
from mftcoder.export import hub as hub_module

MFTCODER = [sys.executable, "-m", "mftcoder"]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub() as server:
        yield server


def environment(server: HubServer, home: Path, **more: str) -> dict[str, str]:
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | settings | more


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the export leaves it, its weights in three files."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_llama().save_pretrained(folder, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: unknown\n---\n# model\n")
    (folder / "trainer_state.json").write_text('{"mftcoder": "0.1.0"}')
    (folder / "plots").mkdir()
    (folder / "plots" / "a.svg").write_text("<svg/>")
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def push(server: HubServer, folder: Path, home: Path, *more: str, **changed: str) -> subprocess.CompletedProcess[str]:
    command = [*MFTCODER, "export", str(folder), "--push", "org/model", *more]
    before = contents(folder)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(server, home, **changed), timeout=120
    )
    assert TOKEN not in done.stdout + done.stderr
    assert contents(folder) == before
    return done


DOWNLOAD = """
import sys, torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("org/model")
tokenizer = AutoTokenizer.from_pretrained("org/model")
with torch.no_grad():
    torch.save(model(torch.arange(20)[None]).logits, sys.argv[1])
print(snapshot_download("org/model"))
"""


def test_what_is_pushed_is_what_is_downloaded_and_loads(server, exported, tmp_path):
    done = push(server, exported, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["model", "org/model"]
    assert json.loads(done.stdout)["pushed"].startswith(f"{server.url}/org/model/commit/")
    assert repository.private
    assert repository.files() == contents(exported)
    loading = [sys.executable, "-c", DOWNLOAD, str(tmp_path / "logits.pt")]
    fresh = environment(server, tmp_path)
    loaded = subprocess.run(loading, capture_output=True, text=True, env=fresh)
    assert loaded.returncode == 0, loaded.stderr
    assert contents(Path(loaded.stdout.splitlines()[-1])) == contents(exported)
    with torch.no_grad():
        expected = tiny_llama()(torch.arange(20)[None]).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


@pytest.fixture
def here(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This process talks to the server. Nobody waits: the seconds that were to be waited are in the list."""
    waited: list[float] = []
    for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def sha256s(folder: Path) -> set[str]:
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


def test_a_push_that_was_cut_off_goes_on_and_sends_nothing_twice(server, here, exported):
    first, *others = sorted(sha256s(exported))
    server.faults = [Fault(f"PUT /lfs/{oid}", None, times=1000) for oid in others]
    with pytest.raises(RunError, match=r"is complete. To go on: mftcoder export \S+ --push org/model --revision v2$"):
        hub_module.push(exported, "org/model", revision="v2", tell=lambda _: None)
    repository = server.repositories["model", "org/model"]
    assert repository.branches["v2"] == repository.branches["main"]  # nothing half done
    assert set(server.puts) == {first}
    server.faults = [Fault(f"PUT /lfs/{others[0]}", None, times=1)]  # half of it arrives; the library tries again
    hub_module.push(exported, "org/model", revision="v2")
    assert repository.files("v2") == contents(exported)
    assert server.puts == dict.fromkeys([first, *others], 1)


def test_a_busy_hub_is_waited_for_as_long_as_it_asks(server, here, exported):
    server.faults = [
        Fault("POST /api/repos/create", 429, headers={"Retry-After": "17"}),
        Fault("POST /api/models/org/model/commit", 500),
        Fault("POST /org/model.git/info/lfs", 429, headers={"Retry-After": "5"}),
    ]
    told: list[str] = []
    hub_module.push(exported, "org/model", tell=told.append)
    assert server.repositories["model", "org/model"].files() == contents(exported)
    assert 17.0 in here
    assert 6.0 in here  # the library's: one more second than it was asked for
    assert len(told) == 2
    assert "429" in told[0]
    assert TOKEN not in "".join(told)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "Set HF_TOKEN"), (403, "may not write there"), (500, "500"), (429, "429"), (None, "disconnected")],
)
def test_a_hub_that_refuses_is_named_and_the_token_is_not(server, here, exported, status, remedy):
    headers = {"Retry-After": "86400"} if status == 429 else {}
    server.faults = [Fault("POST /api/", status, times=1000, headers=headers)]
    before = contents(exported)
    with pytest.raises(
        RunError, match=r"To go on: mftcoder export \S+ --push org/model --public --create-pr"
    ) as refused:
        hub_module.push(exported, "org/model", private=False, create_pr=True, tell=lambda _: None)
    assert remedy in str(refused.value)
    assert TOKEN not in "".join(traceback.format_exception(refused.value))
    assert contents(exported) == before
    assert sum(here) <= 60


def test_a_token_that_the_hub_does_not_know(server, here, exported, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherTokenThatNobodyKnows")
    with pytest.raises(RunError, match="answered 401") as refused:
        hub_module.push(exported, "org/model")
    assert "anotherToken" not in str(refused.value)


def test_a_second_push_replaces_the_first_and_deletes_its_other_weights(server, here, exported, tmp_path):
    hub_module.push(exported, "org/model", message="first")
    tiny_llama().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "trainer_state.json").write_text('{"mftcoder": "0.1.0"}')
    hub_module.push(tmp_path / "whole", "org/model")  # which answers 409 to being made again
    repository = server.repositories["model", "org/model"]
    assert [name for name in repository.files() if "safetensors" in name] == ["model.safetensors"]
    assert repository.messages[0] == "first"


def test_a_pull_request_leaves_the_branch_alone(server, here, exported):
    address = hub_module.push(exported, "org/model", create_pr=True)
    repository = server.repositories["model", "org/model"]
    assert address == f"{server.url}/org/model/discussions/1"
    assert repository.files() == {}
    assert repository.files("refs/pr/1") == contents(exported)


def test_what_is_no_export_is_not_pushed(server, here, tmp_path):
    (tmp_path / "thesis.txt").write_text("private")
    with pytest.raises(MftcoderError, match="is no whole export"):
        hub_module.push(tmp_path, "org/model")
    assert server.requests == []


def test_a_card_with_wrong_metadata_stops_the_push_before_any_upload(server, here, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: other\nbase_model: /home/me/base\n---\n")
    with pytest.raises(RunError, match="Invalid metadata in README"):
        hub_module.push(tmp_path / "copy", "org/model")
    assert server.puts == {}


def test_an_adapter_whose_base_model_only_this_machine_has_is_not_pushed(server, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    for base in (str(tmp_path), "models/llama/7b"):
        settings.write_text(json.dumps({"base_model_name_or_path": base}))
        done = push(server, tmp_path / "adapter", tmp_path)
        assert done.returncode == 2
        assert f"the adapter's base model is the folder {base}, which nobody else has" in done.stderr
        assert not server.repositories
    settings.write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert push(server, tmp_path / "adapter", tmp_path).returncode == 0
