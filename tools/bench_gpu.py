"""What one GPU reaches: whole training steps of a Llama of about a billion parameters with random weights.

    python tools/bench_gpu.py TOKENIZER DATA full lora full+compile full+sdpa --json found.json
    python tools/bench_gpu.py TOKENIZER DATA full trl trl+flex trl+bf16      needs TRL beside this program

TOKENIZER is a folder, DATA one of NAME.jsonl in the format "messages". A RUN is words joined by "+": full, lora, qlora
or trl; what the attention is (varlen, flex, sdpa, eager; default: auto); rowsN for a micro-batch of N rows, stepN for N
micro-batches a step; zeroN; compile; checkpoint; 8bit, paged; fp16, fp32. With "profile" a step is traced as well.
Each is a process of its own, one after another, on the same rows.

MFU is the share of the rate that a large bfloat16 matrix product reaches on the same GPU; what the method needs counts,
not what is done (see mftcoder/training/flops.py). Memory is what the allocator of CUDA had given out at most, beside
what ``mftcoder validate`` plans, for rows that are all supervised.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_loop import our_steps, started
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mftcoder.config.load import parse
from mftcoder.config.schema import Config
from mftcoder.data.prepare import prepare
from mftcoder.data.shards import Shards
from mftcoder.training.memory import plan

WARM_UP = 3  # steps that are not counted
BILLION = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ATTENTION = {"varlen": "varlen", "flex": "flex_attention", "sdpa": "sdpa", "eager": "eager", "fa2": "flash_attention_2"}
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
)
DTYPES = {"fp16": "float16", "fp32": "float32"}
GPU = torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--length", type=int, default=4096, metavar="N", help="tokens in a row (default: 4096)")
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="rows of a micro-batch (default: 4)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help=f"beside {WARM_UP} to warm up (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try this script")
    parser.add_argument("--json", type=Path, help="file that gets what was found, after every run")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--traces", type=Path, default=Path(), help="folder for what is profiled")
    arguments = parser.parse_args()
    if arguments.inside:  # a process of its own for one run
        import mftcoder.engine.deepspeed  # noqa: F401

        input()  # until it is its turn
        found = measure(arguments.runs[0], arguments, arguments.inside, arguments.rate)
        print(f"FOUND {json.dumps(found)}")
        return
    with tempfile.TemporaryDirectory() as name:
        found = compare(arguments, Path(name))
    show(found)


def compare(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All runs, each in a process of its own."""
    found: list[dict[str, Any]] = []
    rate, device = (matmul_rate(), torch.cuda.get_device_name()) if GPU else (1e12, "cpu")
    print(f"{device}: {rate / 1e12:,.0f} TFLOP/s in a large bfloat16 matrix product", flush=True)
    make_model(arguments, folder / "model")
    prepare(config_of("full", arguments, folder, rate), tell=print)
    waiting = start(arguments.runs[0], arguments, folder, rate)
    for words, following in itertools.zip_longest(arguments.runs, arguments.runs[1:]):
        begin, process = time.perf_counter(), waiting
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
        if following:
            waiting = start(following, arguments, folder, rate)
        measured = {"run": words, "device": device, "peak_tflops": rate / 1e12, "planned_gib": None}
        if not words.startswith("trl"):
            measured["planned_gib"] = plan(config_of(words, arguments, folder, rate), 1).total / 2**30
        output, _ = process.communicate()
        told = [line for line in output.splitlines() if line.startswith("FOUND ")]
        measured |= json.loads(told[-1].removeprefix("FOUND ")) if told else {"error": output[-3000:]}
        measured["whole_seconds"] = time.perf_counter() - begin
        found.append(measured)
        print(json.dumps(measured), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def start(words: str, arguments: argparse.Namespace, folder: Path, rate: float) -> subprocess.Popen[str]:
    """A process for a run, which imports what it needs and then waits for a line."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("length", "rows", "steps", "traces")]
    command = [sys.executable, __file__, str(arguments.tokenizer), str(arguments.data), words, *options]
    command += [f"--inside={folder}", f"--rate={rate}", *(["--tiny"] if arguments.tiny else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def make_model(arguments: argparse.Namespace, folder: Path) -> None:
    """A random Llama in bfloat16, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    with torch.device("cuda" if GPU else "cpu"):
        shape = TINY if arguments.tiny else BILLION
        config = LlamaConfig(
            **shape,
            vocab_size=-(-len(tokenizer) // 128) * 128,
            num_key_value_heads=shape["num_attention_heads"] // 4,
            max_position_embeddings=arguments.length,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    del model
    if GPU:
        torch.cuda.empty_cache()


def config_of(words: str, arguments: argparse.Namespace, folder: Path, rate: float) -> Config:
    """The training config of a run."""
    kind, *others = words.split("+")
    numbers = {"rows": arguments.rows, "step": 1, "zero": 1}
    for word in others:
        name = word.rstrip("0123456789")
        if name in numbers and name != word:
            numbers[name] = int(word.removeprefix(name))
    model: dict[str, Any] = {"path": str(folder / "model"), "dtype": "bfloat16"}
    for word in others:
        if word in ATTENTION:
            model["attention"] = ATTENTION[word]
        if word in DTYPES:
            model["dtype"] = DTYPES[word]
    if kind in ("lora", "qlora"):
        model["lora"] = {"rank": 32, "alpha": 64, "dropout": 0.0}
    if kind == "qlora":
        model["quantization"] = {"type": "nf4"}
    optim = {"8bit": "adamw_bnb_8bit", "paged": "paged_adamw_8bit"}
    return parse(
        {
            "output_dir": str(folder / "run"),
            "model": model,
            "data": {
                "shards": str(folder / "shards"),
                "sequence_length": arguments.length,
                "validation_fraction": 0.0,
                "tasks": [{"name": file.stem, "path": str(file)} for file in sorted(arguments.data.glob("*.jsonl"))],
            },
            "loss": {"weighting": {"type": "uniform"}},
            "training": {
                "per_device_train_batch_size": numbers["rows"],
                "gradient_accumulation_steps": numbers["step"],
                "max_steps": 10**6,
                "learning_rate": 1e-5,
                "lr_scheduler_type": "constant",
                "eval_strategy": "no",
                "activation_checkpointing": "checkpoint" in others,
                "torch_compile": "compile" in others,
                "optim": next((optim[word] for word in others if word in optim), "adamw_torch_fused"),
            },
            "deepspeed": {"zero_optimization": {"stage": numbers["zero"]}},
            "logging": {"logging_steps": 1, "report_to": [], "peak_tflops": rate / 1e12},
        }
    )


def measure(words: str, arguments: argparse.Namespace, folder: Path, rate: float) -> dict[str, float | str | None]:
    """Time, memory and utilisation of the steps of a run."""
    if words.startswith("trl"):
        stepping = trl_steps(words, arguments, folder, rate)
        found, _ = timed(stepping, arguments.steps)
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if GPU else None
        return found | trl_rates(words, arguments, folder, rate, float(found["seconds_per_step"] or 0))
    from mftcoder.engine.deepspeed import process_group

    with process_group() as group:
        run = started(config_of(words, arguments, folder, rate), group)
        stepping = our_steps(run)
        found, seconds = timed(stepping, arguments.steps)
        if "profile" in words.split("+"):
            profile(stepping, arguments.traces / words.replace("+", "-"))
        run.metrics.close()
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    counted = [line for line in lines if line["kind"] == "train"][WARM_UP:][: arguments.steps]
    tokens, supervised = (sum(line[name] for line in counted) for name in ("tokens", "supervised_tokens"))
    return found | {
        "attention": str(run.engine.model.attention),
        "peak_gib": max(line["memory_gib"] for line in counted),
        "tokens_per_second": tokens / seconds,
        "supervised_per_second": supervised / seconds,
        "mfu": statistics.median(line["mfu"] for line in counted),
        "loss": counted[-1]["loss"],
        "waiting_for_data": sum(line["data_seconds"] for line in counted) / seconds,
    }


def timed(stepping: Iterator[None], num_steps: int) -> tuple[dict[str, float | str | None], float]:
    """What the steps after warming up took, and their sum."""
    seconds = []
    for _ in range(WARM_UP + num_steps):
        begin = time.perf_counter()
        next(stepping)
        if GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    counted = seconds[WARM_UP:]
    found: dict[str, float | str | None] = {
        "seconds_per_step": statistics.median(counted),
        "fastest": min(counted),
        "slowest": max(counted),
        "first_step": seconds[0],
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if GPU else None,
    }
    return found, sum(counted)


def rows_of(arguments: argparse.Namespace, folder: Path) -> list[dict[str, list[int]]]:
    """The rows of our shards as TRL takes them: ids, labels, lengths of the samples."""
    shards, made = Shards.open(folder / "shards"), []
    parts = [shards.rows(task, "train") for task in shards.tasks]
    for number in range(max(map(len, parts))):
        for part in parts:
            row = part[number % len(part)]
            labels = [
                int(token) if counts else -100 for token, counts in zip(row.input_ids, row.supervised, strict=True)
            ]
            made.append(
                {
                    "input_ids": row.input_ids.tolist(),
                    "labels": labels,
                    "seq_lengths": [int(length) for length in row.segment_lengths],
                }
            )
    return made


def trl_steps(words: str, arguments: argparse.Namespace, folder: Path, rate: float) -> Iterator[None]:
    """Every ``next`` is a step of TRL's SFTTrainer on our rows: weights in float32 under autocast, or in bfloat16."""
    import threading

    import datasets
    import trl
    from transformers import TrainerCallback

    others = words.split("+")[1:]
    config = config_of(words, arguments, folder, rate)
    attention = next((backend for word, backend in ATTENTION.items() if word in others), "sdpa")
    lora = None
    if "lora" in others:
        import peft

        lora = peft.LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    dtype = torch.bfloat16 if "bf16" in others or lora else torch.float32
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=dtype, attn_implementation=attention)
    done, go = threading.Semaphore(0), threading.Semaphore(0)
    stopped: list[BaseException] = []

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    training = trl.SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=config.training.per_device_train_batch_size,
        gradient_accumulation_steps=config.training.gradient_accumulation_steps,
        max_steps=WARM_UP + arguments.steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        bf16=GPU,
        use_cpu=not GPU,
        packing=False,
        padding_free=True,
        max_length=None,
        gradient_checkpointing="checkpoint" in others,
        torch_compile="compile" in others,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    rows = datasets.Dataset.from_list(rows_of(arguments, folder))
    trainer = trl.SFTTrainer(
        model,
        training,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=lora,
        callbacks=[Turns()],
    )

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:
            stopped.append(error)
            done.release()

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    for _ in range(WARM_UP + arguments.steps):
        go.release()
        done.acquire()
        if stopped:
            raise stopped[0]
        yield
    go.release()
    thread.join(timeout=30)


def trl_rates(
    words: str, arguments: argparse.Namespace, folder: Path, rate: float, seconds: float
) -> dict[str, float | str | None]:
    """What its steps held, on the average of all rows: it draws them in an order of its own."""
    rows = rows_of(arguments, folder)
    training = config_of(words, arguments, folder, rate).training
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    tokens = statistics.mean(len(row["input_ids"]) for row in rows) * per_step
    supervised = statistics.mean(sum(label != -100 for label in row["labels"]) for row in rows) * per_step
    return {"tokens_per_second": tokens / seconds, "supervised_per_second": supervised / seconds}


def profile(stepping: Iterator[None], path: Path) -> None:
    """A trace of one more step, and where its time went."""
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if GPU else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        next(stepping)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(f"{path}.json.gz")
    key = "self_cuda_time_total" if GPU else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90)
    Path(f"{path}.txt").write_text(table, encoding="utf-8")


def matmul_rate(size: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations per second of a square product of random bfloat16 matrices."""
    a, b = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.mm(a, b)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return 2 * size**3 / statistics.median(times[3:])


def show(found: list[dict[str, Any]]) -> None:
    """One line per run."""
    columns = ("run", "s/step", "tokens/s", "supervised/s", "MFU", "peak GiB", "planned", "attention")
    table = Table(*columns)
    for each in found:
        if "error" in each:
            table.add_row(each["run"], each["error"][:60])
            continue
        numbers = [f"{each['tokens_per_second']:,.0f}", f"{each['supervised_per_second']:,.0f}"]
        utilisation = f"{each['mfu']:.1%}" if each.get("mfu") else ""
        planned = f"{each['planned_gib']:.2f}" if each["planned_gib"] else ""
        attention = itertools.islice(str(each.get("attention", "")), 20)
        seconds = f"{each['seconds_per_step']:.3f}"
        table.add_row(
            each["run"], seconds, *numbers, utilisation, f"{each['peak_gib'] or 0:.2f}", planned, "".join(attention)
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
