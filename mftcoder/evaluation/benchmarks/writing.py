"""A model's completions of the problems of a benchmark."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.data.chat import stop_token_ids
from mftcoder.evaluation.answering import Answer, Question, answer_all, room
from mftcoder.evaluation.benchmarks.asking import CLOSING, prompt_of, stops_of
from mftcoder.evaluation.benchmarks.problems import Problem
from mftcoder.evaluation.benchmarks.store import Key
from mftcoder.evaluation.prompts import prompt_ids
from mftcoder.evaluation.sampling import Draw, Sampling
from mftcoder.training.trained import load_for_use

NO_ROOM = "no room"  # the prompt is as long as what the model can read


class Wanted(NamedTuple):
    """A completion to write: which sample of which problem; ``number`` counts the problems of the file."""

    number: int
    problem: Problem
    sample: int

    @property
    def key(self) -> Key:
        return self.problem.name, self.sample


class Written(NamedTuple):
    """A completion: what goes behind the prompt, or the answer in a conversation."""

    text: str
    finish: str  # "stop", "length" or ``NO_ROOM``


class Writer:
    """A model that is loaded when it is first needed: never, where all completions are there."""

    def __init__(self, model: str) -> None:
        self._name = model

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        return load_for_use(self._name)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._loaded[1].chat_template)

    def write(
        self, wanted: Sequence[Wanted], sampling: Sampling, *, chat: bool, batch_size: int
    ) -> Iterator[list[tuple[Wanted, Written]]]:
        """The completions, a batch at a time: alike prompts together, the short ones first.

        What is written depends on the problem's number, the sample's and the seed, not on what else is wanted.
        """
        model, tokenizer = self._loaded
        texts = {one.number: prompt_of(one.problem, chat=chat) for one in wanted}
        ids = {number: prompt_ids(tokenizer, text) for number, text in texts.items()}
        stops = {one.number: stops_of(one.problem, chat=chat) for one in wanted}
        waiting = sorted(wanted, key=lambda one: (stops[one.number], len(ids[one.number])))
        while waiting:
            at = stops[waiting[0].number]
            batch = [one for one in waiting[:batch_size] if stops[one.number] == at]
            waiting = waiting[len(batch) :]
            fits = [one for one in batch if len(ids[one.number]) < room(model)]
            questions = [
                Question(ids[one.number], stop_token_ids(tokenizer), Draw(one.number, one.sample)) for one in fits
            ]
            until = replace(sampling, stop=(*at, *sampling.stop))
            answers = iter(answer_all(model, tokenizer, questions, until, batch_size=batch_size))
            yield [(one, _written(next(answers)) if one in fits else Written("", NO_ROOM)) for one in batch]


def _written(answer: Answer) -> Written:
    """The bracket that closes a function is where its writing stops, and belongs to it."""
    return Written(answer.text + (CLOSING if answer.stopped_at == CLOSING else ""), answer.finish)
