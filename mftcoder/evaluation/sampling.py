"""How the tokens of an answer are chosen, and where it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

UNFINISHED = "\ufffd"  # what tokenizers write for bytes that are not yet a character
_MARGIN = 16  # tokens: those that write nothing may stand between those of a stop text


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 256  # of one answer
    temperature: float = 0.0  # 0: always the likeliest token
    top_p: float = 1.0  # sample from the likeliest tokens that together have this probability
    seed: int = 0
    stop: tuple[str, ...] = ()  # texts at which an answer ends; they are not part of it


class Draw(NamedTuple):
    """Which answer to which prompt this is: what is drawn depends on the two and the seed, on nothing beside it."""

    prompt: int
    sample: int = 0


def choice(sampling: Sampling, draws: Sequence[Draw]) -> LogitsProcessorList:
    """What makes the likeliest token of each row the one to take."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*steps, _Noise([_seed(sampling.seed, draw) for draw in draws])])


def _seed(seed: int, draw: Draw) -> int:
    return int.from_bytes(blake2b(repr((seed, *draw)).encode(), digest_size=7).digest())


class _Noise(LogitsProcessor):
    """Adds Gumbel noise: the likeliest token becomes a draw from the softmax. Each row has a generator of its own."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` [B, V] with noise."""
        draws = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self._generators]
        return scores.float() - torch.stack(draws).log().to(scores.device)


class StopTexts(StoppingCriteria):
    """Ends a row as soon as its answer holds one of some texts."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, prompt_length: int) -> None:
        self._texts, self._tokenizer, self._start = texts, tokenizer, prompt_length
        self._looked_at = max(len(text.encode()) for text in texts) + _MARGIN  # no token is less than a byte

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """[B]: which rows of ``input_ids`` [B, T] have ended."""
        tails = input_ids[:, max(self._start, input_ids.shape[1] - self._looked_at) :]
        decoded = self._tokenizer.batch_decode(tails, skip_special_tokens=True)
        ended = [any(text in tail for text in self._texts) for tail in decoded]
        return torch.tensor(ended, device=input_ids.device)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """``text`` up to the first of ``stop`` in it, and whether there was one."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def settled(text: str, stop: Sequence[str]) -> str:
    """The part of an unfinished answer that no further token can take back: no half character, no begun stop text."""
    text, found = cut_at_stop(text.rstrip(UNFINISHED), stop)
    if found:
        return text
    begun = (n for one in stop for n in range(min(len(one) - 1, len(text)), 0, -1) if text.endswith(one[:n]))
    return text[: len(text) - max(begun, default=0)]
