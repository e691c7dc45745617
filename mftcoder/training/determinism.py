"""Runs that repeat bit for bit on a GPU too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ENVIRONMENT = {  # read by cuBLAS when it starts, and by transformers
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
}


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """If ``wanted``, torch takes deterministic algorithms inside, and raises RuntimeError where there is none.

    Must be entered before anything is computed on a GPU. CUBLAS_WORKSPACE_CONFIG stays as it is if it is set.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    added = ENVIRONMENT.keys() - os.environ.keys()
    os.environ.update({key: ENVIRONMENT[key] for key in added})
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        for key in added:
            del os.environ[key]
