"""Run by a launcher: train a config while something goes wrong on one rank.

torchrun … harm_worker.py HARM RANK STEP CONFIG
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from mftcoder.cli import main
from mftcoder.distributed import rank_from_environment
from mftcoder.engine.deepspeed import DeepSpeedEngine


def hang(engine: DeepSpeedEngine) -> None:
    """Stay where no other rank is waited for."""
    time.sleep(3600)


def flip(engine: DeepSpeedEngine) -> None:
    """A bit of a weight changes, as by a fault of memory."""
    name, weight = list(engine.replicated())[3]
    print(f"flipping a bit of {name}", flush=True)
    weight.data.view(-1)[:1].view(torch.uint8)[0] ^= 1


def fail(engine: DeepSpeedEngine) -> None:
    """An error of this rank alone."""
    raise OSError(5, "Input/output error", "/data/shard.arrow")


def spoil(engine: DeepSpeedEngine, value: float) -> None:
    """The losses of the next forward pass of this rank that is trained on are ``value``."""

    def spoiled(module: torch.nn.Module, _: object, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if not module.training:
            return outputs
        handle.remove()
        print(f"a loss of {value}", flush=True)
        return outputs[0] + value, outputs[1] + value, *outputs[2:]

    handle = engine.model.register_forward_hook(spoiled)


HARMS: dict[str, Callable[[DeepSpeedEngine], None]] = {
    "hang": hang,
    "flip": flip,
    "fail": fail,
    "nan": partial(spoil, value=float("nan")),
    "inf": partial(spoil, value=float("inf")),
}


def harm_after(step: int, harm: Callable[[DeepSpeedEngine], None]) -> None:
    """``harm`` after so many steps."""
    original, taken = DeepSpeedEngine.step, 0

    def stepping(engine: DeepSpeedEngine, learning_rate: float) -> object:
        nonlocal taken
        info = original(engine, learning_rate)
        taken += 1
        if taken == step:
            harm(engine)
        return info

    DeepSpeedEngine.step = stepping


if __name__ == "__main__":
    harm, rank, step, config = sys.argv[1:]
    if rank_from_environment()[0] == int(rank):
        harm_after(int(step), HARMS[harm])
    sys.exit(main(["train", config]))
