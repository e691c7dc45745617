"""Tiny real things that many tests share: a two-layer Llama, a byte-level tokenizer, rows of tokens."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from mftcoder.data.shards import Row

VOCABULARY = 300
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    """A random two-layer Llama with grouped-query attention; the same weights at every call."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    # Larger than the usual initialisation, so that losses of tokens differ and every effect shows.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tiny_mixture() -> MixtralForCausalLM:
    """Like ``tiny_llama``, with four experts in each layer."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**shape, initializer_range=0.3))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["def add(a, b):\n    return a + b\n", "two plus three is five, they said."] * 4, trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHATML
    return fast


def random_rows(seed: int, rows: list[list[int]], supervised_share: float = 0.5) -> list[Row]:
    generator = np.random.default_rng(seed)
    made, sample = [], 0
    for lengths in rows:
        ids = generator.integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
        supervised = generator.random(sum(lengths)) < supervised_share
        starts = np.cumsum([0, *lengths[:-1]])
        supervised[starts] = False
        samples = np.arange(sample, sample + len(lengths))
        sample += len(lengths)
        made.append(Row(ids, supervised, np.array(lengths, np.int32), samples))
    return made
