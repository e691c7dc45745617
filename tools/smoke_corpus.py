"""Write three tiny tasks, a random model with its tokenizer, and a config: what tools/smoke.sh runs on.

python tools/smoke_corpus.py FOLDER
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    draw = random.Random(0)
    pairs = [(draw.randrange(100), draw.randrange(100)) for _ in range(300)]
    tasks = {
        "add": [{"messages": [_turn("user", f"{a} + {b}"), _turn("assistant", str(a + b))]} for a, b in pairs],
        "multiply": [{"instruction": "Multiply.", "input": f"{a} * {b}", "output": str(a * b)} for a, b in pairs[:100]],
        "text": [{"text": f"{a} and {b} are two numbers."} for a, b in pairs[:40]],
    }
    for name, records in tasks.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([json.dumps(records) for records in tasks.values()], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=128, **shape)).save_pretrained(folder / "base")

    config = {
        "output_dir": str(folder / "run"),
        "model": {"path": str(folder / "base"), "dtype": "float32"},
        "data": {
            "shards": str(folder / "shards"),
            "sequence_length": 128,
            "tasks": [{"name": name, "path": str(folder / f"{name}.jsonl")} for name in tasks],
        },
        "loss": {"weighting": {"type": "coba", "window_steps": 6, "warmup_steps": 2, "probe": {"every_steps": 2}}},
        "training": {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.003,
            "eval_strategy": "steps",
            "eval_steps": 5,
        },
        "deepspeed": "configs/deepspeed/zero2.json",
        "logging": {"logging_steps": 2},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
