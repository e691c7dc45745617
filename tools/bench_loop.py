"""What the training loop costs beside the model.

    OMP_NUM_THREADS=1 python tools/bench_loop.py overhead MODEL DATA     against a bare loop in plain torch
    OMP_NUM_THREADS=1 python tools/bench_loop.py flat DATA --steps 2000  step time and memory from start to end
    OMP_NUM_THREADS=1 python tools/bench_loop.py ranks MODEL DATA        two ranks against two runs, by ZeRO stage

MODEL is a folder with a tokenizer, DATA a folder of NAME.jsonl in the format "messages". Times are those of the
processor unless marked as the clock's.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peers
import torch
from experiment import new_project
from process import watch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from mftcoder.config.load import load
from mftcoder.config.schema import Config
from mftcoder.data.batch import Batch
from mftcoder.data.loader import steps
from mftcoder.data.prepare import prepare
from mftcoder.distributed import Group
from mftcoder.losses.chunked_nll import chunked_nll
from mftcoder.training.loop import take_step, upcoming_steps
from mftcoder.training.run import set_up
from mftcoder.training.state import Run

WARM_UP = 2  # steps that are not counted
STAGES = Path(__file__).parents[1] / "configs" / "deepspeed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command, default_steps in (("overhead", overhead, 10), ("flat", flat, 2000), ("ranks", ranks, 8)):
        subparser = commands.add_parser(name)
        subparser.set_defaults(command=command)
        if command is not flat:
            subparser.add_argument("model", type=Path)
        subparser.add_argument("data", type=Path)
        subparser.add_argument(
            "--steps", type=int, default=default_steps, metavar="N", help=f"default: {default_steps}"
        )
        subparser.add_argument("--length", type=int, default=512, metavar="N", help="tokens in a row (default: 512)")
        if command is ranks:
            subparser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3], help="default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments.command(arguments, Path(folder))


def overhead(arguments: argparse.Namespace, folder: Path) -> None:
    """The whole loop (loader, DeepSpeed, weighting, metrics) and bare loops over the same rows, in turn."""
    from mftcoder.engine.deepspeed import process_group

    work = peers.Work(arguments.model.resolve(), arguments.data.resolve(), arguments.length, steps=10**6)
    config = load(peers.ours(work, folder).config)
    prepare(config, tell=lambda _: None)
    with process_group() as group:
        run = started(config, group)
        contestants = {
            "our loop": our_steps(run),
            "bare loop, our head": bare_steps(config, run, our_loss),
            "bare loop, torch's head": bare_steps(config, run, torch_loss),
        }
        seconds = in_turn(contestants, arguments.steps)
        run.metrics.close()
    table = Table("", "s/step", "our loop is", "from – to")
    for name, times in seconds.items():
        ratios = sorted(ours / bare for ours, bare in zip(seconds["our loop"], times, strict=True))
        spread = f"{ratios[0]:.3f}–{ratios[-1]:.3f}"
        table.add_row(name, f"{statistics.median(times):.3f}", f"{statistics.median(ratios):.3f}×", spread)
    Console(width=100).print(table)


def started(config: Config, group: Group) -> Run:
    """A run at its start."""
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    return set_up(config, group, None)


def our_steps(run: Run) -> Iterator[None]:
    """Every ``next`` is a step as ``train_loop`` takes it."""
    run.step_began = time.perf_counter()
    for batches in upcoming_steps(run):
        take_step(run, batches)
        run.step_began = time.perf_counter()
        yield


def bare_steps(config: Config, run: Run, loss_of: Callable[..., torch.Tensor]) -> Iterator[None]:
    """What one would write by hand: forward, loss, backward, clip, AdamW."""
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=config.training.weight_decay, fused=True)
    micro_rows = config.training.per_device_train_batch_size
    for (batch,) in steps(run.train_loader, run.schedule.rows, micro_rows, range(run.total_steps)):
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield


def our_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The mean over supervised positions, with ``chunked_nll``."""
    hidden, count = supervised(model, batch), len(batch.targets)
    coefficients = torch.full((count,), 1 / count)
    return chunked_nll(hidden, model.lm_head.weight, None, batch.targets, coefficients=coefficients)[1]


def torch_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The same with torch's own chunked loss, which came with torch 2.13."""
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import linear_cross_entropy

    options = LinearCrossEntropyOptions(batch_chunk_size=256)
    hidden, targets = supervised(model, batch), batch.targets
    return linear_cross_entropy(hidden, model.lm_head.weight, targets, reduction="sum", options=options) / len(targets)


def supervised(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[S, H]: the last hidden states where the next token is supervised."""
    output = model.model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=None, use_cache=False
    )
    return output.last_hidden_state.flatten(0, 1).index_select(0, batch.supervised)


def in_turn(contestants: dict[str, Iterator[None]], num_steps: int) -> dict[str, list[float]]:
    """Seconds of the processor for each step of each contestant."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(WARM_UP + num_steps):
        order = list(contestants)[:: 1 if number % 2 else -1]
        for name in order:
            start = time.process_time()
            next(contestants[name])
            if number >= WARM_UP:
                seconds[name].append(time.process_time() - start)
    return seconds


def flat(arguments: argparse.Namespace, folder: Path) -> None:
    """A tiny model for many steps: each tenth's median step time, and the memory at its end.

    Beside every step a fixed product is timed, since other programs slow the processor itself down.
    """
    from mftcoder.engine.deepspeed import process_group

    training = {"per_device_train_batch_size": 2, "max_steps": 10**6, "learning_rate": 1e-4, "eval_strategy": "no"}
    files = {file.stem: file for file in sorted(arguments.data.glob("*.jsonl"))}
    shape = {"sequence_length": 64, "vocabulary": 1024, "hidden_size": 64, "layers": 2}
    config = new_project(folder, files, **shape, validation_fraction=0, seed=0, training=training)
    seconds, products, memory = [], [], []
    square = torch.ones(256, 256)
    with process_group() as group:
        run = started(config, group)
        stepping = our_steps(run)
        for _ in range(arguments.steps):
            start = time.process_time()
            next(stepping)
            seconds.append(time.process_time() - start)
            start = time.process_time()
            for _ in range(10):
                square.mm(square)
            products.append(time.process_time() - start)
            memory.append(resident_mib())
        run.metrics.close()
    table = Table("steps", "ms/step (median)", "per product", "MiB")
    relative = np.array(seconds) / np.array(products)
    first = 10
    for part in np.array_split(np.arange(first, arguments.steps), 10):
        median = statistics.median(seconds[number] for number in part)
        ratio = np.median(relative[part])
        table.add_row(f"{part[0]}–{part[-1]}", f"{1000 * median:.2f}", f"{ratio:.2f}", f"{memory[part[-1]]:.1f}")
    Console(width=100).print(table)
    number = np.arange(first, arguments.steps)
    slopes = [1000 * np.polyfit(number, np.array(values[first:]), 1)[0] for values in (seconds, memory)]
    print(f"per 1000 steps: {1000 * slopes[0]:+.3f} ms, {slopes[1]:+.2f} MiB")


def resident_mib() -> float:
    """Of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def ranks(arguments: argparse.Namespace, folder: Path) -> None:
    """Two runs of one rank beside each other, and one of two ranks, which takes longer for communication alone."""
    work = peers.Work(arguments.model.resolve(), arguments.data.resolve(), arguments.length, steps=arguments.steps)
    program = peers.ours(work, folder)
    prepare(load(program.config), tell=lambda _: None)
    table = Table("ZeRO", "2 runs, s/step", "2 ranks, s/step", "share", "by the clock: 2 runs", "2 ranks", "share")
    for stage in arguments.stages:
        with ThreadPoolExecutor(2) as beside:
            runs = [beside.submit(seconds_per_step, program, folder / name, stage, 1) for name in ("a", "b")]
        one = np.mean([run.result() for run in runs], axis=0)
        two = seconds_per_step(program, folder, stage, 2)
        cells = [cell for a, b in zip(one, two, strict=True) for cell in (f"{a:.3f}", f"{b:.3f}", f"{1 - a / b:.1%}")]
        table.add_row(str(stage), *cells)
    Console(width=110).print(table)


def seconds_per_step(program: peers.Program, folder: Path, stage: int, num_ranks: int) -> list[float]:
    """The median of the processor's, for each rank, and of the clock's."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    settings = [f"deepspeed={STAGES / f'zero{stage}.json'}", f"output_dir={folder / f'run-{stage}-{num_ranks}'}"]
    command = [*launcher, *program.command[1:], *(part for each in settings for part in ("--set", each))]
    seen = watch(command, {}, note=lambda line: bool(program.step_line.match(line)))
    lines = seen.lines[WARM_UP - 1 :]
    clocks = ([line.processor_seconds / num_ranks for line in lines], [line.wall_seconds for line in lines])
    return [statistics.median(np.diff(times)) for times in clocks]


if __name__ == "__main__":
    main()
