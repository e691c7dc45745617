"""What each weighting costs: processor time per step and peak memory, relative to uniform weights.

All methods train in this process, through the real training loop's pieces under DeepSpeed (ZeRO-0), and take their
steps in turn. A round is ten steps of every method and a look at its probe, which counts as often as looks come (once
in twenty steps: half). A method's ratio is the median over rounds of its time in a round over that of uniform weights.
Only what this process itself computes counts, so other programs on the machine do not disturb it much; that takes one
thread.

    OMP_NUM_THREADS=1 python tools/bench_weighting.py                tasks out of Python's standard library
    OMP_NUM_THREADS=1 python tools/bench_weighting.py --tasks 100    the same data as they are and as a hundred tasks
    OMP_NUM_THREADS=1 python tools/bench_weighting.py --params small --steps 20
"""

import argparse
import ctypes
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiment import new_project
from rich.console import Console
from rich.table import Table

from mftcoder.config.schema import Config
from mftcoder.construct.from_source import construct
from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.losses.weighting import parse
from mftcoder.training.loop import take_step, upcoming_steps
from mftcoder.training.run import set_up
from mftcoder.training.state import Run
from mftcoder.training.watch import look_at_probe

ROUND = 10  # steps
METHODS = {
    "uniform": {"type": "uniform"},
    "coba efficient": {"type": "coba"},
    "coba paper": {"type": "coba", "preset": "paper"},
    "famo": {"type": "famo"},
    "famo_valid": {"type": "famo_valid"},
    "lbtw": {"type": "lbtw"},
    "lbtw_valid": {"type": "lbtw_valid"},
    "dwa": {"type": "dwa"},
    "uncertainty": {"type": "uncertainty"},
    "gradnorm": {"type": "gradnorm"},
    "gradnorm lm_head": {"type": "gradnorm", "shared": "lm_head"},
    "gradnorm_valid": {"type": "gradnorm_valid"},
    "multiplicative": {"type": "multiplicative"},
}
MANY = ("uniform", "coba efficient", "gradnorm")  # what is measured with --tasks
SHAPES = {  # --params
    "small": {"vocabulary": 1024, "hidden_size": 64, "layers": 2, "sequence_length": 64},
    "25M": {"vocabulary": 6144, "hidden_size": 512, "layers": 7, "sequence_length": 128},
}
ROWS_PER_STEP = 4
PACKAGES = ("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "multiprocessing", "unittest")


@dataclass
class Contestant:
    """A method's run, and what it took."""

    run: Run
    batches: Iterator[list[Batch]]
    peak: float = 0.0  # MiB that a step needs beyond what lies in memory before it
    seconds: list[float] = field(default_factory=list)  # of the processor, in each round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of task files NAME.jsonl (default: made)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="timed, of each method (default: 50)")
    parser.add_argument("--params", choices=SHAPES, default="25M", help="size of the model (default: 25M)")
    parser.add_argument("--tasks", type=int, metavar="N", help="compare the tasks as they are with N made of them")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all; with --tasks: " + ", ".join(MANY))
    arguments = parser.parse_args()
    from mftcoder.engine.deepspeed import process_group

    with tempfile.TemporaryDirectory() as name, process_group() as group:
        folder = Path(name)
        files = task_files(arguments.data or made_tasks(folder / "data"))
        variants = {f"{len(files)} tasks": files}
        if arguments.tasks:
            variants[f"{arguments.tasks} tasks"] = divided(files, folder / "divided", arguments.tasks)
        configs = {name: new_config(folder / name, files, arguments.params) for name, files in variants.items()}
        contestants = {
            (method, name): enter(config, method, group)
            for method in arguments.methods or (MANY if arguments.tasks else METHODS)
            for name, config in configs.items()
        }
        compete(list(contestants.values()), max(1, arguments.steps // ROUND))
        for contestant in contestants.values():
            contestant.run.metrics.close()
    show(contestants)


def made_tasks(folder: Path) -> Path:
    """Four code tasks and plain text out of packages of the standard library."""
    packages = [Path(sysconfig.get_path("stdlib"), name) for name in PACKAGES]
    construct(folder, packages, max_samples=600, max_chars=600, tell=lambda _: None)
    return folder


def task_files(folder: Path) -> dict[str, Path]:
    """Task name -> file."""
    return {file.stem: file for file in sorted(folder.glob("*.jsonl"))}


def divided(files: dict[str, Path], folder: Path, num_tasks: int) -> dict[str, Path]:
    """The same records as ``num_tasks`` tasks, dealt out one by one."""
    folder.mkdir()
    parts = num_tasks // len(files)
    for name, file in files.items():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        for part in range(parts):
            (folder / f"{name}-{part}.jsonl").write_text("".join(lines[part::parts]), encoding="utf-8")
    return task_files(folder)


def new_config(folder: Path, files: dict[str, Path], params: str) -> Config:
    """The config, model and shards that all methods share."""
    training = {"per_device_train_batch_size": ROWS_PER_STEP, "max_steps": 10**6, "learning_rate": 1e-4}
    return new_project(folder, files, validation_fraction=0.25, seed=0, training=training, **SHAPES[params])


def enter(config: Config, method: str, group: Group) -> Contestant:
    """A run of its own for ``method``."""
    weighting = config.loss.model_copy(update={"weighting": parse(METHODS[method])})
    output_dir = Path(f"{config.output_dir}-{method}")
    output_dir.mkdir()
    run = set_up(config.model_copy(update={"loss": weighting, "output_dir": str(output_dir)}), group, None)
    look_at_probe(run)
    return Contestant(run, upcoming_steps(run))


def compete(contestants: list[Contestant], num_rounds: int) -> None:
    """Two steps to warm up and to see the memory, then the timed rounds."""
    for _ in range(2):
        for contestant in contestants:
            contestant.peak = max(contestant.peak, peak_memory(contestant))
    for number in range(num_rounds):
        for contestant in contestants:
            contestant.seconds.append(0.0)
        for step in range(ROUND):
            first = (number * ROUND + step) % len(contestants)  # nobody always comes after the same one
            for contestant in contestants[first:] + contestants[:first]:
                contestant.seconds[-1] += seconds_of(step_of, contestant)
        for contestant in contestants:
            if probe := contestant.run.probe:
                contestant.seconds[-1] += seconds_of(look_of, contestant) * ROUND / probe.every_steps


def seconds_of(action: Callable[[Contestant], None], contestant: Contestant) -> float:
    """Of the processor."""
    start = time.process_time()
    action(contestant)
    return time.process_time() - start


def step_of(contestant: Contestant) -> None:
    """A step as ``train_loop`` takes it."""
    contestant.run.step_began = time.perf_counter()
    take_step(contestant.run, next(contestant.batches))


def look_of(contestant: Contestant) -> None:
    """A look at the probe."""
    look_at_probe(contestant.run)


def peak_memory(contestant: Contestant) -> float:
    """MiB that a step and a look need for a time, beyond what was in memory before them. Linux only."""
    ctypes.CDLL(None).malloc_trim(0)  # or freed memory that the process keeps would hide what is allocated anew
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    step_of(contestant)
    look_of(contestant)
    return memory("VmHWM") - before


def memory(key: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def show(contestants: dict[tuple[str, str], Contestant]) -> None:
    """The table, against the first contestant."""
    first = next(iter(contestants.values()))
    columns = ("weighting", "tasks", "probe", "s/step", "time", "rounds", "peak MiB", "extra MiB")
    table = Table(*columns, caption=f"{len(first.seconds)} rounds of {ROUND} steps")
    for (method, tasks), contestant in contestants.items():
        ratios = sorted(ours / base for ours, base in zip(contestant.seconds, first.seconds, strict=True))
        probe = contestant.run.probe
        table.add_row(
            method,
            tasks,
            f"{len(probe.mini_batches[0])} rows / {probe.every_steps}" if probe else "–",
            f"{statistics.median(contestant.seconds) / ROUND:.3f}",
            f"{statistics.median(ratios):.3f}x",
            f"{ratios[0]:.3f}–{ratios[-1]:.3f}",
            f"{contestant.peak:.0f}",
            f"{contestant.peak - first.peak:+.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
