"""Production: every run goes through ``deepspeed.initialize``, also on one CPU. Nothing else imports deepspeed."""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# DeepSpeed picks its accelerator at import; without a GPU it must not look for one.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.utils import logger
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from transformers.integrations import HfDeepSpeedConfig

from mftcoder.config.schema import Training
from mftcoder.data.batch import Batch
from mftcoder.distributed import Group, rank_from_environment
from mftcoder.engine.optimizer import adamw
from mftcoder.engine.protocol import StepInfo
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL

TAG = "engine"  # DeepSpeed's name for the one state that a checkpoint folder of ours holds
logger.setLevel(logging.WARNING)
# Of DeepSpeed's calls, not of ours; torch repeats them at every step.
for deprecated in ("reduce_scatter_tensor", "all_gather_into_tensor", "torch.jit.script"):
    warnings.filterwarnings("ignore", message=f".*{deprecated}", category=Warning)


@contextmanager
def process_group() -> Iterator[Group]:
    """This process's place among the ranks that the launcher started.

    Joins the process group and leaves it at the end, or uses the one that the process is in already.
    """
    rank, size, local_rank = rank_from_environment()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device("cpu")
        # Only speeds up inference; loading it would compile C++ for a minute on first use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    joined_before = torch.distributed.is_initialized()
    if not joined_before:
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False, dist_init_required=True)
    try:
        yield Group(rank, size, device)
    finally:
        if not joined_before and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def partitioned_loading(settings: Mapping[str, Any]) -> Iterator[None]:
    """Under ZeRO-3, models made inside are partitioned as they load and never exist whole on one rank."""
    keep_alive = HfDeepSpeedConfig(dict(settings))  # transformers holds it by a weak reference
    yield
    del keep_alive


class DeepSpeedEngine:
    """See ``protocol.Engine``. ``settings`` is the resolved DeepSpeed config (``config.deepspeed.resolve``)."""

    def __init__(self, model: TokenNLL, training: Training, settings: Mapping[str, Any], group: Group) -> None:
        self._group = group
        self._frozen = any(not p.requires_grad for p in model.parameters())
        self._optimizer = adamw(model, training)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self._optimizer, config=dict(settings))
        # DeepSpeed allocates Adam's moments by a step on zero gradients, and some of its wrappers count that step.
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].zero_()

    @property
    def model(self) -> TokenNLL:
        return self._engine.module

    def __call__(self, batch: Batch, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor]:
        nll, loss = self._engine(batch.to(self._group.device), coefficients)
        return nll, loss

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed sums over micro-batches but takes the mean over ranks; the loss is a share of a global sum.
        self._engine.backward(loss * self._group.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> StepInfo:
        optimizer = self._engine.optimizer
        if optimizer is self._optimizer:  # not wrapped, in float32 at stage 0: then nobody looks at the gradient
            norm = self._gradient_norm()
            if not math.isfinite(norm):
                self._engine.zero_grad()
                return StepInfo(norm, skipped=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if optimizer is not self._optimizer:
            norm = float(self._engine.get_global_grad_norm())
        return StepInfo(norm, skipped=not self._engine.was_step_applied())

    def train(self, mode: bool) -> None:
        self._engine.train(mode)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(directory), TAG, save_latest=False, exclude_frozen_parameters=self._frozen)

    def load(self, directory: Path) -> None:
        self._engine.load_checkpoint(str(directory), TAG, load_module_strict=not self._frozen)

    def _gradient_norm(self) -> float:
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads).item()


def consolidated_weights(directory: Path) -> dict[str, Tensor]:
    """The trained weights of a checkpoint that ``DeepSpeedEngine.save`` wrote: whole, on the CPU, by the model's names.

    Opens DeepSpeed's pickles: the caller has checked that they are the files that were written.
    """
    folder = directory / TAG
    if list(folder.glob("*_optim_states.pt")):
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(directory), TAG)
    else:
        files = list(folder.glob("mp_rank_00_model_states.pt"))
        if not files:
            raise MftcoderError(f"{folder}: no weights of DeepSpeed here.")
        weights = torch.load(files[0], map_location="cpu", weights_only=False, mmap=True)["module"]
    prefix = "model."  # of TokenNLL; its head repeats parameters of the model
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
