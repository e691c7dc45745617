"""Run by the launcher in test_variants.py: train, save, go on; load, go on; every case to OUT/CASE, findings to OUT.

torchrun … variants_worker.py FOLDER OUT CASE [CASE …]    CASE: stage:variant, a key of VARIANTS; FOLDER: of BASES
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from tiny import VOCABULARY, tiny_llama, tiny_mixture, tiny_tokenizer

from mftcoder.config.deepspeed import resolve
from mftcoder.config.load import parse
from mftcoder.config.schema import Config
from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.engine.protocol import Engine
from mftcoder.models.adapter import make_batch
from mftcoder.training.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from mftcoder.training.run import load_engine

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
NEW_TOKENS = [f"<|new {number}|>" for number in range(VOCABULARY - len(tiny_tokenizer()))]  # up to VOCABULARY
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
VARIANTS: dict[str, dict] = {  # name -> sections of the config; DeepSpeed's "zero_optimization" is "zero"
    "rank-stabilized": {"model": {"lora": LORA | {"rank_stabilized": True}}},
    "dora": {"model": {"lora": LORA | {"dora": True}}},
    "pissa": {"model": {"lora": LORA | {"initialization": "pissa"}}},
    "embeddings": {"model": {"lora": LORA | {"modules_to_save": ["embed_tokens", "lm_head"]}}},
    "tied-embeddings": {"base": "tied", "model": {"lora": LORA | {"modules_to_save": ["embed_tokens"]}}},
    "new-tokens": {"base": "small", "model": {"lora": LORA, "new_tokens": NEW_TOKENS}},
    "tied-new-tokens": {"base": "small-tied", "model": {"lora": LORA, "new_tokens": NEW_TOKENS}},
    "new-tokens-full": {"base": "small", "model": {"new_tokens": NEW_TOKENS}},
    "new-tokens-qlora": {
        "base": "small",
        "model": {"lora": LORA, "quantization": {"type": "nf4"}, "new_tokens": NEW_TOKENS},
    },
    "experts": {"base": "mixture", "model": {"lora": LORA | {"target_parameters": EXPERTS}}},
    "qlora": {"model": {"lora": LORA, "quantization": {"type": "nf4"}}},
    "quantized-dora": {"model": {"lora": LORA | {"dora": True}, "quantization": {"type": "nf4"}}},
    "qlora-single": {"model": {"lora": LORA, "quantization": {"type": "nf4", "double_quantization": False}}},
    "lora-plus": {
        "model": {"lora": LORA},
        "training": {"learning_rates": [{"pattern": "lora_B", "multiplier": 8.0}]},
    },
    "8bit": {"training": {"optim": "adamw_bnb_8bit"}},
    "offload": {"zero": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}},
}
BASES = {  # name -> the model that it is a folder of
    "plain": tiny_llama,
    "tied": partial(tiny_llama, tie_word_embeddings=True),
    "mixture": tiny_mixture,
    "small": partial(tiny_llama, vocab_size=len(tiny_tokenizer())),
    "small-tied": partial(tiny_llama, vocab_size=len(tiny_tokenizer()), tie_word_embeddings=True),
}
ROWS, WIDTH, SAVED_AT, STEPS = 4, 24, 3, 6


def config(bases: Path, out: Path, case: str) -> Config:
    stage, variant = case.split(":")
    changes = VARIANTS[variant]
    zero = {"stage": int(stage), **changes.get("zero", {})}
    if stage == "3":
        zero["stage3_param_persistence_threshold"] = 0
    else:
        zero.pop("offload_param", None)
    return parse(
        {
            "output_dir": str(out / case),
            "model": {"path": str(bases / changes.get("base", "plain")), "dtype": "float32"} | changes.get("model", {}),
            "data": {"tasks": [{"name": "a", "path": "unused"}]},
            "training": {"learning_rate": 1e-2} | changes.get("training", {}),
            "deepspeed": {"zero_optimization": zero},
        }
    )


def rows(seed: int) -> Batch:
    ids = torch.randint(VOCABULARY, (ROWS, WIDTH), generator=torch.Generator().manual_seed(seed))
    ids[:, ::6] = VOCABULARY - 1  # in some cases a new token
    return make_batch(ids, torch.arange(WIDTH).expand(ROWS, -1))


def share(batch: Batch, group: Group) -> Batch:
    """This rank's rows."""
    mine = slice(group.rank, None, group.size)
    return make_batch(batch.input_ids[mine], batch.position_ids[mine])


def train(engine: Engine, settings: Config, group: Group, steps: range) -> list[float]:
    """The losses of ``steps``, over all ranks."""
    losses = []
    for step in steps:
        batch = share(rows(step), group)
        _, loss, _ = engine(batch, torch.full((len(batch.targets),), 1 / (ROWS * (WIDTH - 1))))
        losses.append(group.sum(loss.detach().double()).item())
        engine.backward(loss, last=True)
        engine.step(settings.training.learning_rate)
    return losses


@torch.no_grad()
def held_out(engine: Engine) -> torch.Tensor:
    """The NLL of rows that are not trained on."""
    engine.train(False)
    nll = engine(rows(99))[0].clone()
    engine.train(True)
    return nll


def main(bases: Path, out: Path, cases: list[str]) -> None:
    from mftcoder.engine.deepspeed import process_group

    found = {}
    with process_group() as group:
        for case in cases:
            settings = config(bases, out, case)
            resolved = resolve(settings, world_size=group.size, hidden_size=32)
            engine, parameters = load_engine(settings, resolved, group)
            losses = train(engine, settings, group, range(SAVED_AT))
            save_checkpoint(out / case, engine, {"step": SAVED_AT, "best_step": None}, group, None)
            trained = held_out(engine)
            losses += train(engine, settings, group, range(SAVED_AT, STEPS))
            end = held_out(engine)
            again, _ = load_engine(settings, resolved, group)
            checkpoint: Checkpoint = find_checkpoint(out / case, "last")
            again.load(checkpoint.path)
            train(again, settings, group, range(SAVED_AT, STEPS))
            found[case] = {
                "losses": losses,
                "trained": trained,
                "end": end,
                "resumed end": held_out(again),
                "parameters": parameters,
                "checkpoint bytes": sum(file["bytes"] for file in checkpoint.state["files"].values()),
            }
            if group.is_main:
                (out / case / "config.json").write_text(json.dumps(settings.model_dump(mode="json")))
                (out / case / "run.json").write_text("{}")
        if group.is_main:
            torch.save(found, out / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
