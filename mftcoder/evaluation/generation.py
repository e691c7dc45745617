"""A model's answers: to conversations through its chat template, to plain text, to holes, or to held-out samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mftcoder.data.chat import stop_token_ids
from mftcoder.data.shards import Shards
from mftcoder.errors import MftcoderError
from mftcoder.evaluation.answering import Question, Tell, answer_all, answer_aloud
from mftcoder.evaluation.losses import load_for_shards
from mftcoder.evaluation.prompts import Ids, Prompt, as_json, prompt_ids, stops_of, with_sentinels
from mftcoder.evaluation.sampling import Draw, Sampling
from mftcoder.training.trained import infilling_tokens, load_for_use

BATCH_SIZE = 8


def generate(
    model: str,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    num_samples: int = 1,
    batch_size: int = BATCH_SIZE,
    tell: Tell | None = None,
) -> list[dict[str, Any]]:
    """``prompt``, ``generated`` and ``finish`` ("stop" or "length") for each of ``prompts``, in their order.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        prompts: conversations, texts with a hole, or strings, which are continued as they are.
        sampling: how tokens are chosen; a draw depends on the seed and the numbers of its prompt and sample alone.
        num_samples: answers to each prompt; with several, ``sample`` counts them.
        batch_size: answers that are written at once.
        tell: takes the pieces of the answers as they grow, then one after another; a line end closes each.
    """
    prompts = with_sentinels(prompts, infilling_tokens(model))
    loaded, tokenizer = load_for_use(model)
    questions = [
        Question(prompt_ids(tokenizer, prompt), stops_of(tokenizer, prompt), Draw(number, sample))
        for number, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
    if tell is None:
        answers = answer_all(loaded, tokenizer, questions, sampling, batch_size=batch_size)
    else:
        answers = []
        for question in questions:
            answers.append(answer_aloud(loaded, tokenizer, question, sampling, tell))
            tell("\n")
    return [
        {"prompt": as_json(prompts[question.draw.prompt])}
        | ({"sample": question.draw.sample} if num_samples > 1 else {})
        | {"generated": answer.text, "finish": answer.finish}
        for question, answer in zip(questions, answers, strict=True)
    ]


def generate_held_out(
    model: str,
    shards_path: str | Path,
    sampling: Sampling,
    *,
    task: str | None = None,
    per_task: int = 2,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """``task``, ``prompt``, ``reference`` and ``generated`` for the first ``per_task`` validation samples of each task.

    The model continues the very tokens of a sample up to its first supervised one; the reference is the supervised
    stretch that follows. Both are decoded for reading, the prompt with its special tokens.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        shards_path: the packed shards; the model's tokenizer must be the one they were made with.
        sampling: how tokens are chosen.
        task: only this one.
        per_task: samples of each task.
        batch_size: answers that are written at once.
    """
    shards = Shards.open(shards_path)
    samples = [
        (name, *sample) for name in ([task] if task else shards.tasks) for sample in _held_out(shards, name, per_task)
    ]
    if not samples:
        raise MftcoderError(f"{shards_path}: the split validation is empty. Tokenize with a data.validation_fraction.")
    loaded, tokenizer = load_for_shards(model, shards)
    stops = stop_token_ids(tokenizer)
    questions = [Question(prompt, stops, Draw(number)) for number, (_, prompt, _) in enumerate(samples)]
    answers = answer_all(loaded, tokenizer, questions, sampling, batch_size=batch_size)
    return [
        {
            "task": name,
            "prompt": tokenizer.decode(prompt),
            "reference": tokenizer.decode(reference, skip_special_tokens=True),
            "generated": answer.text,
        }
        for (name, prompt, reference), answer in zip(samples, answers, strict=True)
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
