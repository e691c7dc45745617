"""A model's answers: to conversations through its chat template, to plain text, or to held-out samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.config.problems import show
from mftcoder.data.chat import encode_prompt, stop_token_ids
from mftcoder.data.records import Conversation
from mftcoder.data.shards import Shards
from mftcoder.data.spans import template_messages
from mftcoder.errors import MftcoderError
from mftcoder.evaluation.losses import load_for_shards
from mftcoder.training.trained import load_for_use

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 256  # of one answer
    temperature: float = 0.0  # 0: always the likeliest token
    top_p: float = 1.0  # sample from the likeliest tokens that together have this probability
    seed: int = 0


def generate(model: str, prompts: Sequence[str | Conversation], sampling: Sampling) -> list[dict[str, Any]]:
    """``prompt`` and ``generated`` for each of ``prompts``, in their order.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        prompts: conversations, or strings, which are continued as they are.
    """
    loaded, tokenizer = load_for_use(model)
    if not tokenizer.chat_template and not all(isinstance(prompt, str) for prompt in prompts):
        raise MftcoderError(f"{model}: has no chat template. Add --raw to continue plain text.")
    ids = [_ids(tokenizer, prompt) for prompt in prompts]
    torch.manual_seed(sampling.seed)
    return [
        {"prompt": _shown(prompt), "generated": _continued(loaded, tokenizer, start, sampling)}
        for prompt, start in zip(prompts, ids, strict=True)
    ]


def _shown(prompt: str | Conversation) -> str | list[dict[str, Any]]:
    return template_messages(prompt) if isinstance(prompt, Conversation) else prompt


def generate_held_out(
    model: str, shards_path: str | Path, sampling: Sampling, *, task: str | None = None, per_task: int = 2
) -> list[dict[str, Any]]:
    """``task``, ``prompt``, ``reference`` and ``generated`` for the first ``per_task`` validation samples of each task.

    The model continues the very tokens of a sample up to its first supervised one; the reference is the supervised
    stretch that follows. Both are decoded for reading, the prompt with its special tokens.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        shards_path: the packed shards; the model's tokenizer must be the one they were made with.
        task: only this one.
    """
    shards = Shards.open(shards_path)
    samples = [
        (name, *sample) for name in ([task] if task else shards.tasks) for sample in _held_out(shards, name, per_task)
    ]
    if not samples:
        raise MftcoderError(f"{shards_path}: the split validation is empty. Tokenize with a data.validation_fraction.")
    loaded, tokenizer = load_for_shards(model, shards)
    torch.manual_seed(sampling.seed)
    return [
        {
            "task": name,
            "prompt": tokenizer.decode(prompt),
            "reference": tokenizer.decode(reference, skip_special_tokens=True),
            "generated": _continued(loaded, tokenizer, prompt, sampling),
        }
        for name, prompt, reference in samples
    ]


def _held_out(shards: Shards, task: str, count: int) -> Iterator[tuple[Ids, Ids]]:
    """The tokens before and in the first supervised stretch of the first ``count`` validation samples."""
    for row in shards.rows(task, "validation"):
        ends = np.cumsum(row.segment_lengths)
        for start, end in zip(ends - row.segment_lengths, ends, strict=True):
            if count == 0:
                return
            count -= 1
            first = start + int(np.argmax(row.supervised[start:end]))
            unsupervised = np.flatnonzero(~row.supervised[first:end])
            last = first + int(unsupervised[0]) if len(unsupervised) else end
            yield row.input_ids[start:first].astype(np.int64), row.input_ids[first:last].astype(np.int64)


def _ids(tokenizer: PreTrainedTokenizerFast, prompt: str | Conversation) -> Ids:
    if isinstance(prompt, Conversation):
        ids = encode_prompt(prompt, tokenizer).astype(np.int64)
    else:
        ids = np.array(tokenizer(prompt).input_ids, np.int64)  # as it is: what spells out a control token is one
    if not len(ids):
        raise MftcoderError(f"the prompt {show(_shown(prompt))} holds no token to go on from. Give some text.")
    return ids


def _continued(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Ids, sampling: Sampling) -> str:
    choice: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        choice = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    stops = stop_token_ids(tokenizer)
    ids = torch.from_numpy(prompt)[None].to(model.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=stops or None,
            pad_token_id=(stops or [0])[0],
            use_cache=True,
            **choice,
        )
    return tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
