"""A new small Llama with a tokenizer of its own, for experiments that must not need a model hub.

The training config says what for: the tokenizer is a byte-level BPE learnt from the config's plain-text tasks without
the texts that the config holds out, and both are written to its ``model.path``.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from mftcoder.config.load import load
from mftcoder.config.schema import Config
from mftcoder.data.encoding import group_of
from mftcoder.data.holdout import Split, group_hash, hold_out, seeded
from mftcoder.data.records import Text
from mftcoder.data.task_records import read_records

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="training config whose tasks are plain text")
    parser.add_argument("--vocabulary", type=int, default=2048, metavar="N", help="tokens (default: 2048)")
    parser.add_argument("--hidden-size", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="default: 4")
    arguments = parser.parse_args()
    config = load(arguments.config)
    logging.disable_progress_bar()
    tokenizer = new_tokenizer(training_texts(config), arguments.vocabulary)
    model = new_model(tokenizer, config, arguments.hidden_size, arguments.layers)
    folder = Path(config.model.path)
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    os.rename(aside, folder)
    print(f"wrote {folder}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")


def training_texts(config: Config) -> Iterator[str]:
    """The texts of every task that tokenizing puts into its training split."""
    for task in config.data.tasks:
        texts = [record for record in read_records(task) if isinstance(record, Text)]
        groups = seeded(np.array([group_hash(group_of(text)) for text in texts], np.uint64), config.seed)
        named = np.array([text.group is not None for text in texts])
        amount = config.data.held_out(task)
        held = hold_out(groups, named, 0.0 if amount == "files" else amount)
        yield from (texts[index].text for index in held.members[Split.TRAIN])


def new_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``vocabulary`` tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHATML
    return fast


def new_model(tokenizer: PreTrainedTokenizerFast, config: Config, hidden_size: int, layers: int) -> LlamaForCausalLM:
    """A Llama for rows of ``config`` with random weights, which depend on its seed alone."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden_size // 32,
            max_position_embeddings=config.data.sequence_length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


if __name__ == "__main__":
    main()
