"""From token ids to answers: many at a time, or one that is told as it grows."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mftcoder.errors import MftcoderError
from mftcoder.evaluation.prompts import Ids
from mftcoder.evaluation.sampling import Draw, Sampling, StopTexts, choice, cut_at_stop, settled

Tell = Callable[[str], None]  # takes the next piece of an answer


class Answer(NamedTuple):
    """What a model wrote."""

    text: str
    finish: str  # "stop": by itself or at a stop text; "length": it was cut
    num_tokens: int
    stopped_at: str = ""  # the stop text, if it was one


class Question(NamedTuple):
    """Ids [L] to go on from, the tokens that end the answer, and which draw it is."""

    ids: Ids
    stops: Sequence[int]
    draw: Draw


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    batch_size: int,
) -> list[Answer]:
    """The answers, in order. Questions of like length share a batch; what comes out does not depend on that.

    Raises MftcoderError if a question alone is as long as the model can read.
    """
    found: dict[int, Answer] = {}
    for batch in _batches(questions, batch_size, room(model) - sampling.max_new_tokens):
        answers = _answers(model, tokenizer, [questions[number] for number in batch], sampling)
        found |= dict(zip(batch, answers, strict=True))
    return [found[number] for number in range(len(questions))]


def _batches(questions: Sequence[Question], batch_size: int, longest: int) -> list[list[int]]:
    """The numbers of all questions, the short ones first; one of more than ``longest`` ids stands alone.

    Beside others it would take from their room.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(questions)), key=lambda n: (questions[n].stops, len(questions[n].ids))):
        alike = batches and questions[batches[-1][0]].stops == questions[number].stops
        if alike and len(batches[-1]) < batch_size and len(questions[number].ids) <= longest:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def answer_aloud(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    question: Question,
    sampling: Sampling,
    tell: Tell,
) -> Answer:
    """The answer, whose text is also told in pieces as it grows; whatever ``tell`` raises ends it."""
    streamer = _Aloud(tokenizer, sampling.stop, tell)
    (answer,) = _answers(model, tokenizer, [question], sampling, streamer)
    if rest := answer.text[len(streamer.told) :]:
        tell(rest)
    return answer


class _Aloud(BaseStreamer):
    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str], tell: Tell) -> None:
        self.told = ""
        self._tokenizer, self._stop, self._tell = tokenizer, stop, tell
        self._ids: list[int] | None = None  # None until the prompt has gone by

    def put(self, value: Tensor) -> None:
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        text = settled(self._tokenizer.decode(self._ids, skip_special_tokens=True), self._stop)
        if piece := text[len(self.told) :]:
            self.told = text
            self._tell(piece)

    def end(self) -> None:
        pass


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    sampling: Sampling,
    streamer: BaseStreamer | None = None,
) -> list[Answer]:
    longest = max(len(question.ids) for question in questions)
    new_tokens = min(sampling.max_new_tokens, room_beside(model, longest))
    stops = list(questions[0].stops)
    padding = (stops or [0])[0]
    ids = np.full((len(questions), longest), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, question in enumerate(questions):  # on the left: all answers begin in one column
        ids[row, longest - len(question.ids) :] = question.ids
        mask[row, longest - len(question.ids) :] = 1
    criteria = [StopTexts(sampling.stop, tokenizer, longest)] if sampling.stop else []
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=torch.from_numpy(mask).to(model.device),
            generation_config=_settings(model, new_tokens, stops, padding),
            logits_processor=choice(sampling, [question.draw for question in questions]),
            stopping_criteria=StoppingCriteriaList(criteria),
            streamer=streamer,
        )
    return [_answer(tokenizer, row[longest:].tolist(), stops, sampling) for row in output]


def _answer(tokenizer: PreTrainedTokenizerFast, ids: list[int], stops: Sequence[int], sampling: Sampling) -> Answer:
    ended = next((place for place, token in enumerate(ids) if token in stops), None)
    written = ids if ended is None else ids[:ended]
    decoded = tokenizer.decode(written, skip_special_tokens=True)
    text, stopped = cut_at_stop(decoded, sampling.stop)
    at = next(stop for stop in sampling.stop if decoded.startswith(stop, len(text))) if stopped else ""
    return Answer(text, "stop" if stopped or ended is not None else "length", len(written), at)


def _settings(model: PreTrainedModel, new_tokens: int, stops: list[int], padding: int) -> GenerationConfig:
    """The model's own settings, but for the choice of tokens, which is ``sampling.choice``'s."""
    settings = copy.deepcopy(model.generation_config) if model.generation_config else GenerationConfig()
    ours: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None}
    ours |= {"max_new_tokens": new_tokens, "max_length": None, "eos_token_id": stops or None, "pad_token_id": padding}
    ours |= {"use_cache": True, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
    for name, value in ours.items():
        setattr(settings, name, value)
    return settings


def room_beside(model: PreTrainedModel, prompt_length: int) -> int:
    """The most tokens of an answer; MftcoderError if the prompt leaves no room for one."""
    if prompt_length >= (most := room(model)):
        raise MftcoderError(
            f"the prompt has {prompt_length} tokens, but the model reads {most} at most, answer included. Shorten it."
        )
    return most - prompt_length


def room(model: PreTrainedModel) -> int:
    """The most tokens that the model reads, prompt and answer together."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**62
