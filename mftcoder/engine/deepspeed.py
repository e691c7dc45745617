"""Production: every run goes through ``deepspeed.initialize``, also on one CPU. Only ``engine`` imports deepspeed."""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils import logger, safe_set_local_fp32_param, safe_set_local_optimizer_state
from torch import Tensor
from transformers.integrations import HfDeepSpeedConfig

from mftcoder.config.schema import Training
from mftcoder.data.batch import Batch
from mftcoder.distributed import Group, rank_from_environment
from mftcoder.engine.communication import time_collectives
from mftcoder.engine.host_memory import trim_at_peaks
from mftcoder.engine.optimizer import build_optimizer, set_learning_rate, steps_taken
from mftcoder.engine.protocol import StepInfo
from mftcoder.engine.stored_state import TRAINED, WEIGHT, StoredState, partition, read_state
from mftcoder.engine.ulysses import SequenceParallel
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL

TAG = "engine"  # DeepSpeed's name for the one state that a checkpoint folder of ours holds
logger.setLevel(logging.WARNING)
# Of DeepSpeed's calls, not of ours; torch repeats them at every step.
for deprecated in ("reduce_scatter_tensor", "all_gather_into_tensor", "torch.jit.script"):
    warnings.filterwarnings("ignore", message=f".*{deprecated}", category=Warning)


@contextmanager
def process_group(ranks_per_row: int = 1) -> Iterator[Group]:
    """This process's place among the ranks that the launcher started, of which ``ranks_per_row`` share their rows.

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
    os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed reads it
    joined_before = torch.distributed.is_initialized()
    if not joined_before:
        backend = "nccl" if device.type == "cuda" else "gloo"
        if "RANK" not in os.environ:  # alone: no port, which another program could take first
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
        deepspeed.init_distributed(backend, verbose=False, dist_init_required=True)
    try:
        yield Group(rank, size, device, ranks_per_row=ranks_per_row)
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
        self._optimizer = build_optimizer(model, training)
        if group.device.type == "cpu":
            trim_at_peaks(model)
        self._sequence = SequenceParallel(model, group) if group.ranks_per_row > 1 else None
        names = {parameter: name for name, parameter in model.named_parameters()}
        # DeepSpeed puts parameters of its own into the optimizer.
        self._groups = [[names[parameter] for parameter in group["params"]] for group in self._optimizer.param_groups]
        # Marks that only ZeRO-3 looks at.
        if blocks := model.adapter.gathered_blocks(model):
            deepspeed.utils.set_z3_leaf_modules(model, blocks)
        for module, parameter in model.adapter.borrowed_parameters(model):
            deepspeed.zero.register_external_parameter(module, parameter)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self._optimizer, config=dict(settings))
        if group.size > 1:
            time_collectives(deepspeed.comm.comm.cdb, group)
        elif self._engine.optimizer is self._optimizer:
            self._engine.enable_backward_allreduce = False  # it would copy all gradients to and fro, for one rank
        # DeepSpeed allocates Adam's moments by a step on zero gradients, and some of its wrappers count that step.
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"] *= 0  # a tensor in torch, a number in bitsandbytes

    @property
    def model(self) -> TokenNLL:
        return self._engine.module

    def __call__(self, batch: Batch, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        batch = batch.to(self._group.device)
        with self._group.own_work.running(self._group.device) if self._engine.training else nullcontext():
            if self._sequence:
                return self._sequence(self._engine, batch, coefficients)
            return self._engine(batch, coefficients)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # Where activations are recomputed, attention is as well.
        with self._sequence.exchanging() if self._sequence else nullcontext():
            # DeepSpeed sums over micro-batches but takes the mean over ranks; the loss is a share of a global sum.
            self._engine.backward(loss * self._group.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> StepInfo:
        optimizer = self._engine.optimizer
        if optimizer is self._optimizer:  # not wrapped, in float32 at stage 0: then nobody looks at the gradient
            norm = self._gradient_norm()
            if not math.isfinite(norm):
                self._engine.zero_grad()
                return StepInfo(norm, skipped=True)
        set_learning_rate(optimizer, learning_rate)
        self._engine.step()
        if optimizer is not self._optimizer:
            norm = float(self._engine.get_global_grad_norm())
        return StepInfo(norm, skipped=not self._engine.was_step_applied())

    def replicated(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._engine.module.named_parameters():
            if not hasattr(weight, "ds_id") or weight.ds_persist:  # ZeRO-3 keeps small ones whole
                yield name, weight

    def optimizer_steps(self) -> list[float]:
        return steps_taken(self._optimizer)

    def train(self, mode: bool) -> None:
        self._engine.train(mode)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(
            str(directory),
            TAG,
            client_state={TRAINED: [name for group in self._groups for name in group]},
            save_latest=False,
            exclude_frozen_parameters=self._frozen,
        )

    def load(self, directory: Path) -> None:
        self._engine.load_checkpoint(str(directory), TAG, load_module_strict=not self._frozen)

    def load_by_name(self, directory: Path, *, weights_only: bool) -> None:
        stored, wrapper = read_state(directory / TAG), self._engine.optimizer
        trained = {name: p for name, p in self._engine.module.named_parameters() if p.requires_grad}
        if different := sorted(stored.names ^ trained.keys()):
            raise MftcoderError(
                f"{directory}: what it trained is not what this config trains: {', '.join(different[:3])} … are "
                "in one only. Restore model.path and model.lora, or export it and train on the exported folder."
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                values = stored.of(name, WEIGHT) if weights_only else stored.of(name)
                numel = getattr(parameter, "ds_numel", parameter.numel())
                if values[WEIGHT].numel() != numel:
                    raise MftcoderError(
                        f"{directory}: {name} has {values[WEIGHT].numel():,} elements there, and {numel:,} by this "
                        "config. Restore model.path and model.lora."
                    )
                self._put(name, parameter, values)
        if hasattr(wrapper, "update_lp_params"):  # stages 1 and 2: from the parts of all ranks
            wrapper.update_lp_params()
        if weights_only:
            return
        if hasattr(wrapper, "loss_scaler") and stored.loss_scaler is not None:
            wrapper.loss_scaler = stored.loss_scaler
        for state in self._optimizer.state.values():
            state["step"] = state["step"] * 0 + stored.steps

    def _put(self, name: str, parameter: torch.nn.Parameter, values: Mapping[str, Tensor]) -> None:
        """Give a parameter and its moments ``values``: whole and flat; of them this rank takes what it holds."""
        if hasattr(parameter, "ds_id"):
            self._put_partition(parameter, values)
        elif hasattr(parameter, "_hp_mapping"):
            if (mapping := parameter._hp_mapping) is None:  # other ranks hold it all
                return
            of, at = mapping.lp_fragment_address, mapping.hp_fragment_address
            flat = self._optimizer.param_groups[mapping.param_group_index]["params"][0]
            for key, value in values.items():
                held = flat if key == WEIGHT else self._moment(flat, key)
                held.narrow(0, at.start, at.numel).copy_(value.narrow(0, of.start, of.numel))
        else:
            master = self._master(name)
            for key, value in values.items():
                held = master if key == WEIGHT else self._moment(master, key)
                held.copy_(value.view_as(held))
            parameter.copy_(master)

    def _put_partition(self, parameter: Any, values: Mapping[str, Tensor]) -> None:
        begin, end = partition(parameter.ds_numel, self._group.rank, self._group.size)
        for key, value in values.items():
            part = torch.zeros(parameter.ds_tensor.numel(), dtype=value.dtype)  # its end may be padding
            part[: end - begin] = value[begin:end]
            if key == WEIGHT:
                safe_set_local_fp32_param(parameter, part)
                parameter.ds_tensor.copy_(part)
            else:
                for flat in self._engine.optimizer.fp32_partitioned_groups_flat:
                    self._moment(flat, key)
                safe_set_local_optimizer_state(parameter, part, key)
        if parameter.ds_status is ZeroParamStatus.AVAILABLE:  # small ones are whole on every rank
            parameter.copy_(values[WEIGHT].view_as(parameter))

    def _moment(self, parameter: Tensor, key: str) -> Tensor:
        """The optimizer's ``key`` for a parameter of its own; before its first step AdamW has none."""
        state = self._optimizer.state[parameter]
        state.setdefault("step", torch.zeros(()))
        return state.setdefault(key, torch.zeros_like(parameter))

    def _master(self, name: str) -> Tensor:
        """Without ZeRO: what the optimizer updates; below float32 it is a copy of the parameter."""
        for group, names in zip(self._optimizer.param_groups, self._groups, strict=True):
            if name in names:
                return group["params"][names.index(name)]
        raise AssertionError(name)

    def _gradient_norm(self) -> float:
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads).item()


def stored_state(directory: Path) -> StoredState:
    """What a checkpoint that ``DeepSpeedEngine.save`` wrote holds, whole, by the names of ``TokenNLL``.

    Opens DeepSpeed's pickles: the caller has checked that they are the files that were written.
    """
    return read_state(directory / TAG)
