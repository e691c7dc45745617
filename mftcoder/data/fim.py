"""Fill-in-the-middle (Bavarian et al., 2022): documents rearranged so that a model learns to insert.

A document is cut at two random characters, or where its record says, before it is tokenized, and its parts are put
between sentinel tokens::

    document        prefix|middle|suffix
    prefix first    <PRE> prefix <SUF> suffix <MID> middle <eos>           PSM
    suffix first    <PRE> <SUF> suffix <MID> prefix middle <eos>           SPM, the paper's second variant

All tokens but the first are supervised, as in any text. What becomes of a document depends on its text and the seed
alone.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mftcoder.config.schema import Fim
from mftcoder.data.chat import CONTROL_AS_TEXT, token_from, tokenize
from mftcoder.data.control import control_tokens
from mftcoder.data.fitting import Encoded
from mftcoder.data.records import Text
from mftcoder.errors import MftcoderError

REARRANGED = "became fill-in-the-middle"
TOO_LONG = "stay as they are, being longer than a row as fill-in-the-middle"
# Before the prefix, before the suffix, before the middle.
STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")  # StarCoder, StarCoder2, Granite
QWEN_CODER = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")  # Qwen2.5-Coder, CodeGemma
DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")  # DeepSeek-Coder, DeepSeek-V2, V3
CODE_LLAMA = ("▁<PRE>", "▁<SUF>", "▁<MID>")
SANTACODER = ("<fim-prefix>", "<fim-suffix>", "<fim-middle>")
GLM = ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>")  # GLM-4, CodeGeeX4
SENTINELS = (STARCODER, QWEN_CODER, DEEPSEEK, CODE_LLAMA, SANTACODER, GLM)
# With what models end an inserted text besides eos: Code Llama, StarCoder2, Qwen2.5-Coder.
ENDS = ("▁<EOT>", "<file_sep>", "<|file_sep|>", "<|fim_pad|>")
_GUARD = "☺"  # Llama's tokenizers put a space before a text: with this before it, the text itself gets none


class Parts(NamedTuple):
    """A document that was cut."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool


def cut(text: str, fim: Fim, seed: int, hole: tuple[int, int] | None = None) -> Parts | None:
    """The parts of ``text``, or None if it is to stay whole; all cuts are equally likely but given ones."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, key=seed.to_bytes(8)).digest()
    chosen, order, *places = (int.from_bytes(digest[start : start + 8]) / 2**64 for start in range(0, 32, 8))
    if chosen >= fim.rate:
        return None
    first, last = sorted(int(place * (len(text) + 1)) for place in places) if hole is None else hole
    return Parts(text[:first], text[first:last], text[last:], order < fim.spm_rate)


def sentinel_ids(fim: Fim, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int, int]:
    """The ids of the tokens before prefix, suffix and middle: those of the config, or of the tokenizer's family.

    Raises MftcoderError if the tokenizer has none.
    """
    backend = tokenizer.backend_tokenizer
    for names in (tuple(fim.sentinels),) if fim.sentinels else SENTINELS:
        prefix, suffix, middle = (backend.token_to_id(name) for name in names)
        if prefix is not None and suffix is not None and middle is not None:
            return prefix, suffix, middle
    sought = ", ".join(fim.sentinels) if fim.sentinels else "; ".join(" ".join(names) for names in SENTINELS)
    raise MftcoderError(
        f"fim: the tokenizer lacks the tokens it needs ({sought}). Name the model's own in fim.sentinels "
        "(before prefix, suffix, middle), or take out fim."
    )


def infilling_ids(
    prefix: str, suffix: str, sentinels: tuple[int, int, int], tokenizer: PreTrainedTokenizerFast
) -> NDArray[np.int32]:
    """The ids [L] after which a model writes what is missing between the two texts: those of a document, prefix first.

    What spells out a control token is ordinary text.
    """
    pre, suf, mid = (np.array([number], np.int32) for number in sentinels)
    control = control_tokens(tokenizer)
    texts = [prefix, suffix]
    before, after = _inner_ids(["prefix", "suffix"], texts, [control.are_in(text) for text in texts], tokenizer)
    return np.concatenate([_beginning(tokenizer), pre, before, suf, after, mid])


def infilling_stops(sentinels: tuple[int, int, int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that end an inserted text, besides eos: the sentinels, and what the tokenizer has of ``ENDS``."""
    known = (tokenizer.backend_tokenizer.token_to_id(name) for name in ENDS)
    return [*sentinels, *(number for number in known if number is not None)]


def rearranged(
    samples: Sequence[Text],
    fim: Fim,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    sequence_length: int,
    parse_control: bool,
    noted: Counter[str],
) -> dict[int, Encoded]:
    """Those of ``samples``, by index, that become fill-in-the-middle: as many as ``fim.rate`` says and fit a row.

    Control tokens in their text are treated as ``chat.encode`` does. ``noted`` gains the numbers of samples.
    """
    pre, suf, mid = (np.array([number], np.int32) for number in sentinel_ids(fim, tokenizer))
    bos = _beginning(tokenizer)
    if tokenizer.eos_token_id is None:
        raise MftcoderError("fim: a text ends with eos, but the tokenizer has no eos token. Set one.")
    eos = np.array([tokenizer.eos_token_id], np.int32)
    control = control_tokens(tokenizer)
    documents = [sample.text.removesuffix(tokenizer.eos_token) for sample in samples]  # eos follows in any case
    holes = [sample.hole for sample in samples]
    chosen = {
        number: parts
        for number, (text, hole) in enumerate(zip(documents, holes, strict=True))
        if (parts := cut(text, fim, seed, hole))
    }
    texts = [text for parts in chosen.values() for text in parts[:3]]
    spelt = [not parse_control and control.are_in(text) for text in texts]
    places = [samples[number].where for number in chosen for _ in range(3)]
    found = iter(_inner_ids(places, texts, spelt, tokenizer))
    encoded = {}
    for place, (number, parts) in enumerate(chosen.items()):
        prefix, middle, suffix = next(found), next(found), next(found)
        ordered = (
            [pre, suf, suffix, mid, prefix, middle] if parts.suffix_first else [pre, prefix, suf, suffix, mid, middle]
        )
        ids = np.concatenate([bos, *ordered, eos])
        if len(ids) > sequence_length:
            noted[TOO_LONG] += 1
            continue
        noted[REARRANGED] += 1
        noted[CONTROL_AS_TEXT] += any(spelt[3 * place : 3 * place + 3])
        encoded[number] = Encoded(ids, np.arange(len(ids)) > 0, np.zeros(0, np.int32))
    return encoded


def _beginning(tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int32]:
    """What the tokenizer puts before a text: bos, or nothing."""
    ids = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return np.array([number for number in ids[:1] if number == tokenizer.bos_token_id], np.int32)


def _inner_ids(
    places: Sequence[str], texts: Sequence[str], spelt: Sequence[bool], tokenizer: PreTrainedTokenizerFast
) -> list[NDArray[np.int32]]:
    """The ids of ``texts`` as of something inside a longer text: no space before them."""
    backend = tokenizer.backend_tokenizer
    alone, inside = (backend.encode(text, add_special_tokens=False).ids for text in ("a", "\na"))
    if inside[-len(alone) :] == alone:
        return [ids for ids, _ in tokenize(places, texts, spelt, tokenizer)]
    guarded = [_GUARD + text for text in texts]
    found = tokenize(places, guarded, spelt, tokenizer)
    return [ids[token_from(encoding, 1, text) :] for (ids, encoding), text in zip(found, guarded, strict=True)]
