"""This program against TRL and LLaMA-Factory: the same model, data, rows and optimizer, by each one's command line.

    OMP_NUM_THREADS=1 python tools/bench_train.py MODEL DATA --trl TRL/bin/python --llamafactory LF/bin/python
    python tools/bench_train.py MODEL DATA --trl TRL/bin/python --device cuda --bf16 --length 4096 --attention sdpa \
        flash_attention_2

MODEL is a folder with a tokenizer whose chat template marks what the assistant says ({% generation %}), which TRL
needs; DATA is a folder of NAME.jsonl in the format "messages". Every program tokenizes and packs for itself. They run
in turn, each round all of them; a step is timed by the line that the program prints after it. On a CPU the time is that
of the processor, which other programs on the machine hardly disturb; that takes one thread. On a GPU it is the clock's,
and tokens/s are also shown as MFU: the share that 6 (LoRA: 4) floating-point operations per weight and token, and those
of causal attention, make of what a large bfloat16 matrix product reaches on the same GPU.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import peers
import torch
from process import watch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

WARM_UP = 2  # steps that are not counted


@dataclass
class Contestant:
    """A program and what it did in each round."""

    program: peers.Program
    supervised_per_row: float
    tokens_per_row: float
    seconds_per_step: list[float] = field(default_factory=list)
    first_step: list[float] = field(default_factory=list)  # seconds from the start to the end of the first step
    peak_mib: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model and its tokenizer")
    parser.add_argument("data", type=Path, help="folder of NAME.jsonl")
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="interpreter that has TRL")
    parser.add_argument("--llamafactory", type=Path, metavar="PYTHON", help="interpreter that has LLaMA-Factory")
    parser.add_argument("--factory-template", default="llama2", help="LLaMA-Factory's template (default: llama2)")
    parser.add_argument("--length", type=int, default=512, metavar="N", help="tokens in a row (default: 512)")
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="rows in a step (default: 4)")
    parser.add_argument("--steps", type=int, default=6, metavar="N", help=f"{WARM_UP} of them to warm up (default: 6)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 (default: float32)")
    parser.add_argument("--lora", type=int, metavar="RANK", help="LoRA on all linear layers (default: all parameters)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--attention", nargs="+", default=["auto"], help="of this program; several are contestants each"
    )
    arguments = parser.parse_args()
    work = peers.Work(
        model=arguments.model.resolve(),
        data=arguments.data.resolve(),
        sequence_length=arguments.length,
        rows_per_step=arguments.rows,
        steps=arguments.steps,
        bf16=arguments.bf16,
        lora_rank=arguments.lora,
        device=arguments.device,
        factory_template=arguments.factory_template,
    )
    with tempfile.TemporaryDirectory() as name:
        contestants = enter(work, Path(name), arguments)
        for number in range(arguments.rounds):
            for contestant in contestants if number % 2 == 0 else contestants[::-1]:
                take_turn(contestant, work)
                show(contestants, work)


def enter(work: peers.Work, folder: Path, arguments: argparse.Namespace) -> list[Contestant]:
    """Write the configs, and count the rows of the peers."""
    programs = [
        peers.ours(work, folder / f"ours-{attention}", f"mftcoder ({attention})", attention=attention)
        for attention in arguments.attention
    ]
    contestants = [Contestant(program, 0.0, 0.0) for program in programs]  # ours tells what its steps held
    for peer, program_of in (("trl", peers.trl), ("llamafactory", peers.llamafactory)):
        if python := getattr(arguments, peer):
            program = program_of(python.absolute(), work, folder / peer)
            rows = peers.packed(peer, python.absolute(), program)
            supervised, tokens = rows["supervised_tokens"] / rows["rows"], rows["tokens"] / rows["rows"]
            contestants.append(Contestant(program, supervised, tokens))
    return contestants


def take_turn(contestant: Contestant, work: peers.Work) -> None:
    """Start the program anew, with nothing cached, and train."""
    program, folder = contestant.program, contestant.program.config.parent
    for left in ("run", "shards", "shards.samples", "cache"):
        shutil.rmtree(folder / left, ignore_errors=True)
    gpu = work.device == "cuda"
    seen = watch(program.command, program.environment, note=lambda line: bool(program.step_line.match(line)), gpu=gpu)
    ends = [line.wall_seconds if gpu else line.processor_seconds for line in seen.lines]
    if len(ends) <= WARM_UP:
        raise RuntimeError(f"{program.name} printed {len(ends)} lines like {program.step_line.pattern}")
    contestant.first_step.append(ends[0])
    contestant.peak_mib.append(seen.peak_gpu_mib if gpu else seen.peak_mib)
    seconds = [end - begin for begin, end in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    contestant.seconds_per_step.append(statistics.mean(seconds))
    metrics = folder / "run" / "metrics.jsonl"
    if metrics.exists():
        steps = [line for line in map(json.loads, metrics.open(encoding="utf-8")) if line["kind"] == "train"][WARM_UP:]
        rows = work.rows_per_step * len(steps)
        contestant.supervised_per_row = sum(line["supervised_tokens"] for line in steps) / rows
        contestant.tokens_per_row = sum(line["tokens"] for line in steps) / rows


def show(contestants: list[Contestant], work: peers.Work) -> None:
    """The table so far; the ratios, of supervised tokens/s and of memory, are the first contestant's to the row's."""
    clock = "" if work.device == "cuda" else " (processor)"
    columns = [
        "program",
        f"s/step{clock}",
        "tokens/s",
        "supervised/s",
        "ours is",
        "peak MiB",
        "ours is",
        f"start{clock}",
    ]
    per_token, peak_rate = (_operations(work), _matmul_rate()) if work.device == "cuda" else (0.0, 0.0)
    table = Table(*columns, *(["MFU"] if peak_rate else []), caption=f"{work.steps - WARM_UP} steps a round")
    first, *_ = contestants
    for contestant in (each for each in contestants if each.seconds_per_step):
        step = statistics.median(contestant.seconds_per_step)
        low, high = min(contestant.seconds_per_step), max(contestant.seconds_per_step)
        tokens = work.rows_per_step * contestant.tokens_per_row / step
        peak = max(contestant.peak_mib)
        table.add_row(
            contestant.program.name,
            f"{step:.2f} ({low:.2f}–{high:.2f})",
            f"{tokens:,.0f}",
            f"{work.rows_per_step * _supervised_rate(contestant):,.1f}",
            f"{_supervised_rate(first) / _supervised_rate(contestant):.2f}×" if first.seconds_per_step else "",
            f"{peak:,.0f}",
            f"{max(first.peak_mib) / peak:.2f}×" if first.peak_mib else "",
            f"{statistics.median(contestant.first_step):.1f}",
            *([f"{tokens * per_token / peak_rate:.1%}"] if peak_rate else []),
        )
    Console(width=150).print(table)


def _supervised_rate(contestant: Contestant) -> float:
    """Supervised tokens of a row per second that a step takes: to be compared only."""
    return contestant.supervised_per_row / statistics.median(contestant.seconds_per_step)


def _operations(work: peers.Work) -> float:
    """Floating-point operations that a token needs, forward and backward."""
    config = AutoConfig.from_pretrained(work.model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    if config.tie_word_embeddings:
        weights += model.get_input_embeddings().weight.numel()  # it is the head as well
    attention = 6 * config.num_hidden_layers * config.hidden_size * work.sequence_length  # as if a row were one sample
    return (4 if work.lora_rank else 6) * weights + attention


def _matmul_rate(size: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations per second of a square matrix product in bfloat16 on this GPU."""
    a, b = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


if __name__ == "__main__":
    main()
