"""Tokenizers of the two common kinds, trained here, and configs that use them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHATML, LLAMA2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Config

TRAINING_TEXT = [
    "def add(a, b):\n    return a + b\n",
    "    hello there, hello you\n        so it is said that it is so",
    "user system assistant human bot hello hello hello",
    "two plus three is five",
] * 8


def _fast(tokenizer: Tokenizer, trainer: trainers.BpeTrainer, **special: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2 and Qwen: byte-level BPE, offsets without leading spaces, no bos; one end token swallows white space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    special: list[str | AddedToken] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*special, AddedToken("<|end|>", rstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast = _fast(tokenizer, trainer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def shared_byte_level() -> PreTrainedTokenizerFast:
    """For tests that draw many examples; not to be changed."""
    return byte_level_tokenizer()


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2: words with a leading mark for the space, and a bos token put before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    alphabet = ["▁", "\n", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", AddedToken("<|end|>", rstrip=True)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    fast = _fast(tokenizer, trainer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    fast.backend_tokenizer.post_processor = tokenizer.post_processor
    fast.chat_template = LLAMA2
    return fast


@pytest.fixture
def byte_level() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer()


@pytest.fixture
def llama() -> PreTrainedTokenizerFast:
    return llama_tokenizer()


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """A config of tasks given as lists of records, with all files under ``tmp_path``."""

    def make(tasks: dict[str, list[dict]], output: str = "run", seed: int = 7, **data: Any) -> Config:
        model = tmp_path / "model"
        if not model.exists():
            byte_level_tokenizer().save_pretrained(model)
        for name, records in tasks.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return Config.model_validate(
            {
                "output_dir": str(tmp_path / output),
                "seed": seed,
                "model": {"path": str(model)},
                "data": {
                    "sequence_length": 128,
                    "validation_fraction": 0.2,
                    "tasks": [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in tasks],
                    **data,
                },
            }
        )

    return make
