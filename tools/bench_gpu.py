"""What one GPU reaches: whole training steps of a Llama of about a billion parameters with random weights.

    python tools/bench_gpu.py TOKENIZER DATA full lora full+compile full+sdpa --json found.json
    python tools/bench_gpu.py TOKENIZER DATA trl trl+flex trl+bf16           needs TRL beside this program

TOKENIZER is a folder, DATA one of NAME.jsonl in the format "messages". A RUN is words joined by "+": full, lora, qlora
or trl; what the attention is (varlen, flex, sdpa, eager; default: auto); rowsN for a micro-batch of N rows, stepN for N
micro-batches a step; zeroN; compile; checkpoint; 8bit, paged; fp16, fp32. With "profile" a step is traced as well. All
run in one process, one after another, on the same rows.

MFU is the share of the rate that a large bfloat16 matrix product reaches on the same GPU; what the method needs counts,
not what is done (see mftcoder/training/flops.py). Memory is what the allocator of CUDA held at most, beyond what was
held before, beside what ``mftcoder validate`` plans, for rows that are all supervised.
"""

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
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
from mftcoder.distributed import Group
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
    parser.add_argument("--traces", type=Path, default=Path(), help="folder for what is profiled")
    arguments = parser.parse_args()
    from mftcoder.engine.deepspeed import process_group

    theirs = [words.startswith("trl") for words in arguments.runs]
    if any(theirs) and not all(theirs):
        parser.error("TRL needs a process without a process group: give its runs by themselves")
    with tempfile.TemporaryDirectory() as name, nullcontext(Group()) if any(theirs) else process_group() as group:
        folder, found = Path(name), []
        make_model(arguments, folder / "model")
        rate = matmul_rate() if GPU else 1e12
        device = torch.cuda.get_device_name() if GPU else "cpu"
        print(f"{device}: {rate / 1e12:,.0f} TFLOP/s in a large bfloat16 matrix product", flush=True)
        prepare(config_of("full", arguments, folder, rate), tell=print)
        for words in arguments.runs:
            measured = {"run": words, "device": device, "peak_tflops": rate / 1e12}
            try:
                measured |= measure(words, arguments, folder, group, rate)
            except Exception as error:  # the next may go well
                traceback.print_exc()
                measured["error"] = f"{type(error).__name__}: {error}"[:1000]
            forget()
            found.append(measured)
            print(json.dumps(measured), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    show(found)


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
    forget()


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


def measure(
    words: str, arguments: argparse.Namespace, folder: Path, group: Group, rate: float
) -> dict[str, float | str | None]:
    """Time, memory and utilisation of the steps of a run."""
    before = held()
    if words.startswith("trl"):
        stepping = trl_steps(words, arguments, folder, rate)
        run, planned = None, None
    else:
        config = config_of(words, arguments, folder, rate)
        planned = plan(config, 1).total
        run = started(config, group)
        stepping = our_steps(run)
    start, seconds = time.perf_counter(), []
    for number in range(WARM_UP + arguments.steps):
        if number == 1 and GPU:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        next(stepping)
        if GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = (torch.cuda.max_memory_allocated() - before) if GPU else 0
    reserved = torch.cuda.max_memory_reserved() if GPU else 0
    if "profile" in words.split("+"):
        profile(stepping, arguments.traces / words.replace("+", "-"))
    found: dict[str, float | str | None] = {
        "seconds_per_step": statistics.median(seconds[WARM_UP:]),
        "fastest": min(seconds[WARM_UP:]),
        "slowest": max(seconds[WARM_UP:]),
        "first_step": seconds[0],
        "warmed_up_after": sum(seconds[:WARM_UP]),
        "peak_gib": peak / 2**30,
        "reserved_gib": reserved / 2**30,
        "planned_gib": planned / 2**30 if planned else None,
        "held_before_gib": before / 2**30,
        "seconds": time.perf_counter() - start,
    }
    if run is None:
        return found | trl_rates(words, arguments, folder, rate, statistics.mean(seconds[WARM_UP:]))
    run.metrics.close()
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    counted = [line for line in lines if line["kind"] == "train"][WARM_UP:][: arguments.steps]
    spent = sum(seconds[WARM_UP:])
    return found | {
        "attention": str(run.engine.model.attention),
        "tokens_per_second": sum(line["tokens"] for line in counted) / spent,
        "supervised_per_second": sum(line["supervised_tokens"] for line in counted) / spent,
        "mfu": statistics.median(line["mfu"] for line in counted),
        "loss": counted[-1]["loss"],
        "waiting_for_data": sum(line["data_seconds"] for line in counted) / spent,
    }


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


def held() -> int:
    return torch.cuda.memory_allocated() if GPU else 0


def forget() -> None:
    """Give back what nothing refers to any more."""
    torch._dynamo.reset()
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()


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
            each["run"], seconds, *numbers, utilisation, f"{each['peak_gib']:.2f}", planned, "".join(attention)
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
