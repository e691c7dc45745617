"""What all tests share."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.distributed import Group

signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist's workers ignore it, and so would what tests start
# No test depends on how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model and tokenizer, as a user would have it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def one_process_group() -> Iterator[Group]:
    """For runs inside this process: DeepSpeed cannot join a second process group in one."""
    from mftcoder.engine.deepspeed import process_group

    with process_group() as group:
        yield group


@pytest.hookimpl(tryfirst=True)  # before fixtures that read from there
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("corpora") and not os.environ.get("MFTCODER_CORPORA"):
        pytest.skip("MFTCODER_CORPORA is not set")
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
