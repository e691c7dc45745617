"""Run by the launcher in test_parity.py: the same 20 steps under many engines and cuts; losses and gradients to a file.

torchrun … parity_worker.py OUT CASE [CASE …]   CASE: stage:micro_rows:accumulation[:lora|:poisoned|:bfloat16|:fused|:…]

The name of a reduction may stand at the end; otherwise it is ``sample``. "parts2" has two ranks share their rows, by
attention of kind "varlen", or else on rows that are "unpacked".
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny import random_rows, tiny_llama

from mftcoder.config.deepspeed import resolve
from mftcoder.config.load import parse
from mftcoder.config.schema import Config, Lora
from mftcoder.data.loader import Loader, Schedule
from mftcoder.data.mixture import Mixture
from mftcoder.distributed import Group
from mftcoder.losses.reductions import build_reduction
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.attention import VARLEN
from mftcoder.models.lora import add_lora
from mftcoder.tasks import TaskSet
from mftcoder.training.step import evaluate, train_step

STEPS, ROWS_PER_STEP = 20, 8
REDUCTIONS = ("token", "sample", "focal_sample", "focal_task")
TASKS = TaskSet(("code", "math", "rare"))
# 3 tasks, 27 + 9 + 2 rows: an epoch of 38 rows is 5 steps, the last of 6 rows, so that a rank can be without rows.
ROWS = [
    random_rows(1, [[11, 8, 5], [20, 3], [24]] * 9),
    random_rows(2, [[6, 17], [9, 9, 4], [13]] * 3, supervised_share=0.2),
    # In the first row nothing is supervised: alone in a micro-batch it leaves a rank without a position.
    [row._replace(supervised=row.supervised & (number > 0)) for number, row in enumerate(random_rows(3, [[10], [21]]))],
]
UNPACKED_ROWS = [random_rows(1, [[23], [11], [8]] * 9), random_rows(2, [[17], [9], [4]] * 3, 0.2), ROWS[2]]


def config(
    stage: int,
    micro: int,
    accumulation: int,
    dtype: str = "float32",
    reduction: str = "sample",
    optim: str = "adamw_torch",
    parts: int = 1,
) -> Config:
    zero = {"stage": stage}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0}
    return parse(
        {
            "output_dir": "unused",
            "model": {"path": "unused", "dtype": dtype},
            "data": {"tasks": [{"name": name, "path": "unused"} for name in TASKS]},
            "loss": {
                "reduction": {"type": reduction},
                "weighting": {"type": "given", "weights": {"code": 1.0, "math": 2.0, "rare": 3.0}},
            },
            "training": {
                "per_device_train_batch_size": micro,
                "gradient_accumulation_steps": accumulation,
                "optim": optim,
                "weight_decay": 0.1,
                "max_grad_norm": 0.5,
                "learning_rate": 3e-4,
                "sequence_parallel_size": parts,
            },
            "deepspeed": {"zero_optimization": zero},
        }
    )


def model(lora: bool, *, varlen: bool = False, checkpointing: bool = False) -> TokenNLL:
    causal = tiny_llama()
    if varlen:
        causal.set_attn_implementation(VARLEN)
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(5)
    return TokenNLL(add_lora(causal, Lora(rank=4, dropout=0.0)) if lora else causal, CausalAdapter())


class Poisoned:
    """An engine whose forward pass goes wrong on one rank: NaN, or an infinite NLL with a finite gradient."""

    def __init__(self, engine, kind: str, group: Group) -> None:
        self._engine, self._kind, self._bad = engine, kind, group.rank == group.size - 1

    def __call__(self, batch, coefficients=None):
        nll, loss, routers = self._engine(batch, coefficients)
        if self._bad and self._kind == "nan":
            return nll * float("nan"), loss * float("nan"), routers
        return (nll + float("inf"), loss, routers) if self._bad else (nll, loss, routers)

    def __getattr__(self, name: str):
        return getattr(self._engine, name)


def run(
    engine, settings: Config, group: Group, read_gradient, *, poisoned: bool = False, unpacked: bool = False
) -> dict:
    """Losses of all steps, the gradient of the first and of a short step, norms; at last losses of all rows by task.

    With ``poisoned`` the third and fourth step are first tried with a loss that is not finite.
    """
    rows = UNPACKED_ROWS if unpacked else ROWS
    loader = Loader(rows, group.data_rank, group.data_size, isolate_samples=True, length=None)
    schedule = Schedule(Mixture(tuple(map(len, rows)), seed=7), ROWS_PER_STEP)
    weighting, reduction = build(settings.loss.weighting, TASKS), build_reduction(settings.loss.reduction, TASKS)
    found: dict = {"losses": [], "norms": [], "gradients": []}
    plain_step = engine.step

    def step_after_reading(rate: float):
        if len(found["losses"]) in (0, 4):
            found["gradients"].append(read_gradient(engine.model))
        return plain_step(rate)

    engine.step = step_after_reading

    def take(trained, step: int):
        return train_step(
            trained,
            list(loader.deal(schedule.rows(step), settings.training.per_device_train_batch_size)),
            weighting,
            step=step,
            learning_rate=settings.training.learning_rate,
            reduction=reduction,
            num_tasks=len(TASKS),
            group=group,
        )

    for step in range(STEPS):
        if poisoned and step in (2, 3):
            assert take(Poisoned(engine, "nan" if step == 2 else "inf", group), step).info.skipped
        result = take(engine, step)
        assert not result.info.skipped
        found["losses"].append(result.loss)
        found["norms"].append(result.info.grad_norm)
        found["rows"] = found.get("rows", 0) + int(result.rows.sum())
    every = [(task, row) for task, its in enumerate(rows) for row in range(len(its))]
    looked = evaluate(engine, loader.deal(every, 3), unit=reduction.unit, num_tasks=len(TASKS), group=group)
    found["validation"] = [*looked.values.tolist(), *looked.standard_errors.tolist()]
    return found


def main(out: str, cases: list[str]) -> None:
    from deepspeed.utils import safe_get_full_grad

    from mftcoder.engine.deepspeed import DeepSpeedEngine, process_group

    def read_gradient(trained: TokenNLL) -> torch.Tensor:
        return torch.cat([safe_get_full_grad(p).flatten().cpu() for p in trained.parameters() if p.requires_grad])

    found = {}
    with process_group() as all_ranks:
        for case in cases:
            stage, micro, accumulation, *rest = case.split(":")
            dtype = "bfloat16" if "bfloat16" in rest else "float32"
            reduction = next((name for name in REDUCTIONS if name in rest), "sample")
            optim = "adamw_torch_fused" if "fused" in rest else "adamw_torch"
            parts = next((int(name.removeprefix("parts")) for name in rest if name.startswith("parts")), 1)
            group = replace(all_ranks, ranks_per_row=parts)
            settings = config(int(stage), int(micro), int(accumulation), dtype, reduction, optim, parts)
            resolved = resolve(settings, world_size=group.size, hidden_size=32)
            trained = model("lora" in rest, varlen="varlen" in rest, checkpointing="checkpointing" in rest)
            engine = DeepSpeedEngine(trained.to(getattr(torch, dtype)), settings.training, resolved, group)
            kinds = {"poisoned": "poisoned" in rest, "unpacked": "unpacked" in rest}
            found[case] = run(engine, settings, group, read_gradient, **kinds)
        if all_ranks.is_main:
            torch.save(found, Path(out))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
