"""Weights and optimizer state in a checkpoint, parameter by parameter, whoever wrote it.

DeepSpeed's files hold what the ranks that wrote them held: pieces of parameters, in a layout of each ZeRO stage. Its
own way to other numbers of ranks, the universal checkpoint, first writes everything anew, does not know stage 0, does
not get from stage 2 to 3, and under stage 3 gives all groups of parameters the weight decay of the first. Here the
pieces are found where they lie, mapped into memory: whoever asks reads no more than the parameter that it asks for.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHT = "weight"  # beside the names that the optimizer has for its moments
TRAINED = "trained"  # of the file of weights: names of the trained parameters, in the optimizer's order


@dataclass
class StoredState:
    """Float32 weights and moments by the parameters' names, and Adam's number of steps."""

    source: Path
    steps: float = 0.0
    loss_scaler: Any = None  # of float16
    _pieces: dict[str, dict[str, list[Tensor]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    @property
    def names(self) -> set[str]:
        return set(self._pieces)

    def of(self, name: str, *keys: str) -> dict[str, Tensor]:
        """``WEIGHT`` and the moments of a parameter, or only ``keys``: each whole and flat, on the CPU."""
        pieces = self._pieces[name]
        return {key: torch.cat(pieces[key]) for key in keys or pieces}

    def add(self, name: str, values: Mapping[str, Tensor]) -> None:
        """The next piece of a parameter."""
        for key, piece in values.items():
            self._pieces[name][key].append(piece.flatten())


def read_state(folder: Path) -> StoredState:
    """The state in DeepSpeed's ``folder``. Opens pickles: the caller has checked that they are what was written."""
    stored = StoredState(folder)
    ranks = _by_rank(folder, "optim_states")
    if not ranks:
        _add_unpartitioned(stored, _open(folder / "mp_rank_00_model_states.pt"))
        return stored
    for rank, path in enumerate(ranks):
        state = _open(path)["optimizer_state_dict"]
        stored.loss_scaler = state["loss_scaler"]
        if "param_slice_mappings" in state:
            _add_slices(stored, state)
        else:
            shapes = _open(_by_rank(folder, "model_states")[rank])["param_shapes"]
            _add_partitions(stored, state, shapes, rank, len(ranks))
    return stored


def _add_unpartitioned(stored: StoredState, state: Mapping[str, Any]) -> None:
    """Stage 0: every rank had everything, in the optimizer of torch or, below float32, in a wrapper around it."""
    optimizer, names = state["optimizer"], state[TRAINED]
    if "optimizer_state_dict" in optimizer:
        masters = [master for group in optimizer["fp32_groups"] for master in group]
        optimizer = optimizer["optimizer_state_dict"]
    else:
        masters = [state["module"][name] for name in names]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    for name, number, master in zip(names, numbers, masters, strict=True):
        moments = optimizer["state"][number]
        stored.add(name, {WEIGHT: master, **_moments(moments, master)})
        stored.steps = float(moments["step"])


def _add_slices(stored: StoredState, state: Mapping[str, Any]) -> None:
    """Stages 1 and 2: of each group one flat part, in which the file says what lies where."""
    for number, (flat, slices) in enumerate(
        zip(state["single_partition_of_fp32_groups"], state["param_slice_mappings"], strict=True)
    ):
        moments = state["base_optimizer_state"]["state"][number]
        stored.steps = float(moments["step"])
        values = {WEIGHT: flat, **_moments(moments, flat)}
        for name, at in slices.items():
            stored.add(name, {key: value.narrow(0, at.start, at.numel) for key, value in values.items()})


def _add_partitions(
    stored: StoredState, state: Mapping[str, Any], shapes: Sequence[Mapping[str, torch.Size]], rank: int, num_ranks: int
) -> None:
    """Stage 3: every parameter is cut into equal parts, the last padded; a group's parts of a rank lie in a row."""
    for number, (flat, group) in enumerate(zip(state["fp32_flat_groups"], shapes, strict=True)):
        moments = state["optimizer_state_dict"]["state"][number]
        stored.steps = float(moments["step"])
        values = {WEIGHT: flat, **_moments(moments, flat)}
        start = 0
        for name, shape in group.items():
            begin, end = partition(math.prod(shape), rank, num_ranks)
            stored.add(name, {key: value.narrow(0, start, end - begin) for key, value in values.items()})
            start += math.ceil(math.prod(shape) / num_ranks)


def partition(numel: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """The elements [begin, end) of a flat parameter that ``rank`` holds under ZeRO-3."""
    part = math.ceil(numel / num_ranks)
    return min(rank * part, numel), min((rank + 1) * part, numel)


def _moments(state: Mapping[str, Any], weight: Tensor) -> dict[str, Tensor]:
    """What the optimizer holds for every element of ``weight``."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.numel() == weight.numel() and key != "step"
    }


def _by_rank(folder: Path, kind: str) -> list[Path]:
    """DeepSpeed's files of every rank, in order of rank."""
    return sorted(folder.glob(f"*zero_pp_rank_*_mp_rank_00_{kind}.pt"), key=_rank_of)


def _rank_of(path: Path) -> int:
    return int(path.name.partition("zero_pp_rank_")[2].partition("_")[0])


def _open(path: Path) -> Mapping[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
