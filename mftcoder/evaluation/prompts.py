"""What a model can be asked: a conversation, a text to go on with, a text with a hole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mftcoder.config.problems import show
from mftcoder.config.schema import Fim
from mftcoder.data.chat import encode_prompt, stop_token_ids
from mftcoder.data.fim import infilling_ids, infilling_stops, sentinel_ids
from mftcoder.data.reading import read_file
from mftcoder.data.records import Conversation, Message, parse_messages
from mftcoder.data.spans import template_messages
from mftcoder.errors import MftcoderError

HOLE = "<FILL_ME>"
Ids = NDArray[np.int64]


class Infilling(NamedTuple):
    """A text with a hole between its two parts."""

    prefix: str
    suffix: str
    sentinels: tuple[str, ...] | None = None  # before prefix, suffix, middle; None: those of the tokenizer's family


Prompt = Conversation | Infilling | str


def question(text: str, where: str, system: str | None = None) -> Conversation:
    """One user message, behind a system message if there is to be one."""
    first = () if system is None else (Message("system", system, False),)
    return Conversation((*first, Message("user", text, False)), where=where)


def with_hole(text: str, where: str, sentinels: tuple[str, ...] | None = None) -> Infilling:
    """The parts around the one HOLE in ``text``; MftcoderError if there is not one."""
    parts = text.split(HOLE)
    if len(parts) != 2:
        raise MftcoderError(f"{where}: must hold {HOLE} once, where the model is to write; found {len(parts) - 1}.")
    return Infilling(parts[0], parts[1], sentinels)


def read_conversations(path: Path) -> list[Prompt]:
    """The conversations of a file, one a line."""
    return [parse_messages(record, where) for where, record in read_file(path)]


def read_prompts(path: Path, *, raw: bool = False, sentinels: tuple[str, ...] | None = None) -> list[Prompt]:
    """The prompts of a file, one record a line: "messages", "prefix" and "suffix", or "prompt".

    Args:
        path: the file.
        raw: "prompt" is text to go on with, not a user message.
        sentinels: as in Infilling.
    """
    return [_prompt(record, where, raw, sentinels) for where, record in read_file(path)]


def _prompt(record: Mapping[str, Any], where: str, raw: bool, sentinels: tuple[str, ...] | None) -> Prompt:
    if "messages" in record:
        return parse_messages(dict(record), where)
    keys = ("prompt",) if "prompt" in record else ("prefix", "suffix")
    if any(not isinstance(record.get(key), str) for key in keys):
        raise MftcoderError(
            f'{where}: must have "messages", the text "prompt", or the texts "prefix" and "suffix"; '
            f"found keys {show(list(record))}."
        )
    if keys == ("prefix", "suffix"):
        return Infilling(record["prefix"], record["suffix"], sentinels)
    return record["prompt"] if raw else question(record["prompt"], where)


def with_sentinels(prompts: Sequence[Prompt], sentinels: tuple[str, ...] | None) -> list[Prompt]:
    """``prompts``; a text with a hole that names no sentinels has these."""
    return [
        prompt._replace(sentinels=prompt.sentinels or sentinels) if isinstance(prompt, Infilling) else prompt
        for prompt in prompts
    ]


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> Ids:
    """The ids [L] that the model goes on from, as it saw such things in training; MftcoderError if there are none."""
    if isinstance(prompt, Conversation):
        if not tokenizer.chat_template:
            raise MftcoderError(f"{prompt.where}: the model has no chat template. Add --raw to continue plain text.")
        ids = encode_prompt(prompt, tokenizer).astype(np.int64)
    elif isinstance(prompt, Infilling):
        ids = infilling_ids(prompt.prefix, prompt.suffix, _sentinels(tokenizer, prompt), tokenizer).astype(np.int64)
    else:
        ids = np.array(tokenizer(prompt).input_ids, np.int64)  # as it is: what spells out a control token is one
    if not len(ids):
        raise MftcoderError(f"the prompt {show(as_json(prompt))} holds no token to go on from. Give some text.")
    return ids


def stops_of(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[int]:
    """The tokens that end an answer to ``prompt``."""
    stops = stop_token_ids(tokenizer)
    if isinstance(prompt, Infilling):
        stops = sorted({*stops, *infilling_stops(_sentinels(tokenizer, prompt), tokenizer)})
    return stops


def _sentinels(tokenizer: PreTrainedTokenizerFast, prompt: Infilling) -> tuple[int, int, int]:
    try:
        return sentinel_ids(Fim(sentinels=list(prompt.sentinels) if prompt.sentinels else None), tokenizer)
    except MftcoderError:
        named = " ".join(prompt.sentinels) if prompt.sentinels else "of any family that is known"
        raise MftcoderError(
            f"--prefix, --infill: the tokenizer has no tokens for a text with a hole ({named}). Name the model's own "
            "with --sentinels, or take a model that was trained to infill."
        ) from None


def as_json(prompt: Prompt) -> str | list[dict[str, Any]] | dict[str, str]:
    """``prompt`` as it is shown."""
    if isinstance(prompt, Conversation):
        return template_messages(prompt)
    return {"prefix": prompt.prefix, "suffix": prompt.suffix} if isinstance(prompt, Infilling) else prompt
