"""Engines: what runs the model and updates its weights."""

import os

import torch

# DeepSpeed picks its accelerator at import; without a GPU it must not look for one.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
