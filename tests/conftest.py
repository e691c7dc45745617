"""What all tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model and tokenizer, as a user would have it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.hookimpl(tryfirst=True)  # before fixtures that read from there
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("corpora") and not os.environ.get("MFTCODER_CORPORA"):
        pytest.skip("MFTCODER_CORPORA is not set")
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
