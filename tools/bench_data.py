"""What preparing the data costs, and what it leaves: speed, padding, memory, size on disk.

    RAYON_NUM_THREADS=1 python tools/bench_data.py TOKENIZER DATA --trl TRL/bin/python --llamafactory LF/bin/python

TOKENIZER is a folder with a tokenizer and a chat template (for the peers also a model), DATA a folder of NAME.jsonl in
the format "messages". Times are those of the processor, which other programs on the machine hardly disturb. Measured:

- tokenizing and packing against the tokenizers' bare ``encode_batch`` over the same texts, already rendered, in turn;
- padding by task, with and without each task's emptiest row; rows without a supervised token; bytes per token on disk;
- packing of 1.6 million lengths drawn from these samples;
- from rows to micro-batches, with the files in memory and read anew;
- the peak memory of ``mftcoder tokenize`` on the data, and on ten times the data;
- what TRL and LLaMA-Factory make of the same files.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
from process import watch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from mftcoder.config.load import load
from mftcoder.config.schema import Config
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.loader import Loader, Schedule
from mftcoder.data.mixture import Mixture
from mftcoder.data.packing import best_fit_decreasing
from mftcoder.data.prepare import prepare, samples_path, shards_path
from mftcoder.data.shards import Shards
from mftcoder.data.task_records import read_records

SAMPLES_TO_PACK = 1_630_322  # the corpus of the MFTCoder paper
TEXTS_AT_ONCE = 1000
ROWS_PER_BATCH = 4
CONSOLE = Console(width=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the tokenizer")
    parser.add_argument("data", type=Path, help="folder of NAME.jsonl")
    parser.add_argument("--length", type=int, default=4096, metavar="N", help="tokens in a row (default: 4096)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that tokenize (default: 1)")
    parser.add_argument("--times", type=int, default=10, metavar="N", help="as much data for the memory (default: 10)")
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="interpreter that has TRL")
    parser.add_argument("--llamafactory", type=Path, metavar="PYTHON", help="interpreter that has LLaMA-Factory")
    parser.add_argument("--factory-template", default="chatml", help="LLaMA-Factory's template (default: chatml)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), arguments.data.resolve()
        template = arguments.factory_template
        work = peers.Work(arguments.model.resolve(), data, arguments.length, factory_template=template)
        config = load(peers.ours(work, folder / "ours").config)
        speed(config, arguments.rounds, arguments.workers)
        shards = Shards.open(config.data.shards or "")
        contents(shards, arguments.length)
        pack_many(shards, arguments.length)
        loading(shards)
        memory(work, folder, arguments.times)
        for peer, program_of in (("trl", peers.trl), ("llamafactory", peers.llamafactory)):
            if python := getattr(arguments, peer):
                found = peers.packed(peer, python.absolute(), program_of(python.absolute(), work, folder / peer))
                padding = 1 - found["tokens"] / (found["rows"] * arguments.length)
                CONSOLE.print(f"{peer}: {found}; padding {padding:.3%}")


def processor_seconds(action: Callable[[], object]) -> float:
    """Of this process and of the children that it started and that ended."""
    before = os.times()
    action()
    return sum(os.times()[:4]) - sum(before[:4])


def speed(config: Config, num_rounds: int, num_workers: int) -> None:
    """Tokenizing and packing against bare ``encode_batch``."""
    tokenizer = load_tokenizer(config.model, config.data.chat)
    texts = rendered(config, tokenizer)
    bare: list[float] = []
    ours: list[float] = []
    num_tokens = sum(len(encoding.ids) for encoding in encoded(tokenizer, texts))
    for _ in range(num_rounds):
        bare.append(processor_seconds(lambda: sum(1 for _ in encoded(tokenizer, texts))))
        for made in (shards_path(config), samples_path(config)):
            shutil.rmtree(made, ignore_errors=True)
        ours.append(processor_seconds(lambda: prepare(config, tell=lambda _: None, num_workers=num_workers)))
    ratios = sorted(b / o for b, o in zip(bare, ours, strict=True))
    CONSOLE.print(
        f"{len(texts):,} samples, {num_tokens:,} tokens; encode_batch {statistics.median(bare):.2f} s, tokenize + pack "
        f"{statistics.median(ours):.2f} s ({num_tokens / statistics.median(ours):,.0f} tokens/s): "
        f"{statistics.median(ratios):.2f} of its throughput ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    )


def rendered(config: Config, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The samples as text."""
    return [
        str(
            tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in record.messages], tokenize=False
            )
        )
        for task in config.data.tasks
        for record in read_records(task)
    ]


def encoded(tokenizer: PreTrainedTokenizerFast, texts: list[str]):
    """What ``encode_batch`` makes of ``texts``, some at a time: all at once would need gigabytes."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield from tokenizer.backend_tokenizer.encode_batch(
            texts[start : start + TEXTS_AT_ONCE], add_special_tokens=False
        )


def contents(shards: Shards, length: int) -> None:
    """A table of what lies in the shards."""
    table = Table("task", "rows", "tokens", "padding", "without the emptiest row", "rows without supervised token")
    size = num_tokens = 0
    for task in shards.manifest.tasks:
        rows = shards.rows(task.name)
        lengths = np.array([len(row.input_ids) for row in rows])
        unsupervised = sum(not row.supervised.any() for row in rows)
        others = np.sort(lengths)[1:]
        padding = [f"{1 - part.mean() / length:.3%}" if len(part) else "–" for part in (lengths, others)]
        table.add_row(task.name, f"{len(rows):,}", f"{lengths.sum():,}", *padding, str(unsupervised))
        size += sum(entry.size for entry in task.splits["train"].files)
        num_tokens += int(lengths.sum())
    CONSOLE.print(table)
    CONSOLE.print(f"{size / num_tokens:.2f} bytes per token on disk")


def pack_many(shards: Shards, length: int) -> None:
    """Pack as many samples as the paper had."""
    known = np.concatenate([row.segment_lengths for task in shards.tasks for row in shards.rows(task)])
    lengths = np.random.default_rng(0).choice(known, SAMPLES_TO_PACK)
    start = time.process_time()
    layout = best_fit_decreasing(lengths, length)
    seconds, num_rows = time.process_time() - start, len(layout.row_starts) - 1
    padding = 1 - lengths.sum() / (num_rows * length)
    CONSOLE.print(f"{len(lengths):,} samples packed into {num_rows:,} rows in {seconds:.1f} s, padding {padding:.4%}")


def loading(shards: Shards) -> None:
    """An epoch in the order of training, once with the files out of memory and once with them in it."""
    for name in ("cold", "warm"):
        if name == "cold":
            for file in shards.folder.rglob("*.arrow"):
                with file.open("rb") as stream:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        tasks = [shards.rows(task) for task in shards.tasks]  # maps the files anew
        loader = Loader(tasks=tasks, rank=0, num_ranks=1, isolate_samples=True, length=None)
        schedule = Schedule(Mixture(tuple(map(len, tasks)), 0), ROWS_PER_BATCH)
        num_tokens, start, busy = 0, time.perf_counter(), time.process_time()
        for step in range(schedule.steps_per_epoch):
            for batch in loader.deal(schedule.rows(step), ROWS_PER_BATCH):
                num_tokens += batch.input_ids.numel()
        by_clock, busy = num_tokens / (time.perf_counter() - start), num_tokens / (time.process_time() - busy)
        CONSOLE.print(f"loader, {name}: {busy:,.0f} tokens/s of the processor, {by_clock:,.0f} by the clock")


def memory(work: peers.Work, folder: Path, times: int) -> None:
    """Peak memory of the largest process of ``mftcoder tokenize`` on the data and on ``times`` the data."""
    peaks = []
    for number in (1, times):
        data = folder / f"data-{number}"
        data.mkdir()
        for file in work.files:
            text = file.read_bytes()
            with (data / file.name).open("wb") as stream:
                for _ in range(number):
                    stream.write(text)
        program = peers.ours(peers.Work(work.model, data, work.sequence_length), folder / f"times-{number}")
        command = (sys.executable, "-m", "mftcoder", "tokenize", str(program.config))
        peaks.append(watch(command, {}).peak_mib)
    CONSOLE.print(
        f"peak memory {peaks[0]:,.0f} MiB; on {times} times the data {peaks[1]:,.0f} MiB: {peaks[1] / peaks[0]:.2f}×"
    )


if __name__ == "__main__":
    main()
