"""Run by the launcher in test_resharding.py: three steps at every ZeRO stage, saved, and beside each what it holds.

torchrun … reshard_worker.py OUT CASE [CASE …]   CASE: stage:dtype:lora|full
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import deepspeed
import parity_worker
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from mftcoder.config.deepspeed import resolve
from mftcoder.distributed import Group
from mftcoder.engine.deepspeed import DeepSpeedEngine, process_group


def make_engine(case: str, group: Group) -> tuple[DeepSpeedEngine, parity_worker.Config]:
    stage, dtype, kind = case.split(":")
    settings = parity_worker.config(int(stage), 2, 1, dtype)
    resolved = resolve(settings, world_size=group.size, hidden_size=32)
    model = parity_worker.model(kind == "lora").to(getattr(torch, dtype))
    return DeepSpeedEngine(model, settings.training, resolved, group), settings


def held(engine: DeepSpeedEngine) -> dict[str, list[Tensor]]:
    """By parameter: float32 weight, both moments, the weight as the model computes with it. Collective."""
    wrapper = engine._engine.optimizer
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):  # DeepSpeed's getters need it after the first step
        wrapper._hp_optimizer_states_linked = False
        wrapper._lazy_init_hp_params_optimizer_state()
    return {name: list(_values(engine, name, p)) for name, p in engine.model.named_parameters() if p.requires_grad}


def _values(engine: DeepSpeedEngine, name: str, parameter: torch.nn.Parameter) -> Iterator[Tensor]:
    with torch.no_grad():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            yield safe_get_full_fp32_param(parameter).clone()
            for moment in ("exp_avg", "exp_avg_sq"):
                yield safe_get_full_optimizer_state(parameter, moment).clone()
        else:
            master = engine._master(name)
            yield master.clone()
            for moment in ("exp_avg", "exp_avg_sq"):
                yield engine._optimizer.state[master][moment].clone()
        if hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                yield parameter.clone()
        else:
            yield parameter.clone()


def main(out: str, cases: list[str]) -> None:
    parity_worker.STEPS = 3
    with process_group() as group:
        for case in cases:
            engine, settings = make_engine(case, group)
            parity_worker.run(engine, settings, group, lambda model: None)
            engine.save(Path(out) / case)
            values = held(engine)
            if group.is_main:
                torch.save(values, Path(out) / case / "held.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
