"""How good the memory plan of ``mftcoder validate`` is: the bytes it foretells beside those that a real step takes.

A Llama of 10M parameters takes two steps under DeepSpeed in every mode; all storages that its operations make are
counted until they are freed. Resident memory of the process, with its libraries, stands beside it.

    OMP_NUM_THREADS=1 python tools/bench_memory.py [--ranks 2] [MODE …]

A MODE is stage:dtype:full|lora|qlora:checkpointing:accumulation, as in 2:bfloat16:lora:1:2.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mftcoder.config.deepspeed import zero_stage
from mftcoder.config.load import parse
from mftcoder.config.schema import Config
from mftcoder.models.adapter import make_batch
from mftcoder.models.load import load_token_nll
from mftcoder.models.tensor_bytes import TensorBytes
from mftcoder.training.memory import plan, settings_of

MODES = [
    f"{stage}:{dtype}:{kind}:{checkpointing}:{accumulation}"
    for stage in (0, 1, 2, 3)
    for dtype, kind, checkpointing, accumulation in (
        ("float32", "full", 0, 1),
        ("bfloat16", "full", 0, 2),
        ("bfloat16", "full", 1, 1),
        ("bfloat16", "lora", 0, 1),
        ("bfloat16", "lora", 1, 2),
        ("bfloat16", "qlora", 1, 1),
    )
]
ROWS, LENGTH, VOCABULARY = 2, 256, 8000


def config_of(mode: str, base: Path) -> Config:
    """The config of one mode, with the model in ``base``."""
    stage, dtype, kind, checkpointing, accumulation = mode.split(":")
    model: dict = {"path": str(base), "dtype": dtype}
    if kind != "full":
        model["lora"] = {"rank": 8, "dropout": 0.0}
    if kind == "qlora":
        model["quantization"] = {"type": "nf4"}
    return parse(
        {
            "output_dir": "unused",
            "model": model,
            "data": {"sequence_length": LENGTH, "tasks": [{"name": "task", "path": "unused"}]},
            "training": {
                "per_device_train_batch_size": ROWS,
                "gradient_accumulation_steps": int(accumulation),
                "activation_checkpointing": checkpointing == "1",
            },
            "deepspeed": f"configs/deepspeed/zero{stage}.json",
        }
    )


def count(config: Config) -> int:
    """The most bytes of tensors that were alive in the second of two steps on this rank."""
    from mftcoder.engine.deepspeed import DeepSpeedEngine, partitioned_loading, process_group

    with process_group() as group, TensorBytes() as counter:
        settings = settings_of(config, group.size)
        with partitioned_loading(settings) if zero_stage(settings) == 3 else contextlib.nullcontext():
            model = load_token_nll(config.model, config.training, seed=0)
        engine = DeepSpeedEngine(model, config.training, settings, group)
        del model
        engine.train(True)
        training, length = config.training, config.data.sequence_length
        rows, micro_batches = training.per_device_train_batch_size, training.gradient_accumulation_steps
        for _ in range(2):
            gc.collect()
            counter.restart()
            for number in range(micro_batches):
                ids = torch.zeros(rows, length, dtype=torch.int64)
                batch = make_batch(ids, torch.arange(length // 2).repeat(rows, 2))
                _, loss, routers = engine(batch, torch.full((len(batch.targets),), 1e-4))
                engine.backward(loss + routers, last=number == micro_batches - 1)
                del loss, routers
            engine.step(1e-4)
        return counter.peak


def new_base(folder: Path) -> Path:
    """A random Llama of 10M parameters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Measure every mode in processes of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", default=MODES)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.base:  # one of the ranks that measure
        config = config_of(arguments.modes[0], arguments.base)
        measured = count(config)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps([measured, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = new_base(Path(folder))
        print("| Mode | Planned MiB | Counted MiB | Planned / counted | Peak in the | Resident MiB |")
        print("|---|--:|--:|--:|---|--:|")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
        for mode in arguments.modes:
            config = config_of(mode, base)
            planned = plan(config, arguments.ranks, gpu=False)
            done = subprocess.run(
                [*launch, __file__, mode, "--base", str(base)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            counted, resident = json.loads(done.stdout.strip().splitlines()[-1])
            figures = f"{planned.total / 2**20:.0f} | {counted / 2**20:.0f} | {planned.total / counted:.3f}"
            print(f"| {mode} | {figures} | {planned.moment} | {resident / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    main()
