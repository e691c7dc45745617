"""Does an exported folder say what the trained model says? Asked of a fresh process, on real samples.

The trained model answers first, as it was trained (its base in 4 bits, its adapters unmerged) and through the very loss
of training; then ``reload`` answers from the folder alone, and the two are held against each other.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mftcoder.config.schema import Config
from mftcoder.data.chat import encode
from mftcoder.data.prepare import shards_path
from mftcoder.data.records import Conversation, Message
from mftcoder.data.shards import Shards
from mftcoder.data.spans import template_messages
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError, RunError
from mftcoder.models.adapter import TokenNLL, make_batch
from mftcoder.models.families import adapter_of

MAX_TOKENS = 4096  # over all samples: two forward passes on the CPU, also of a large model
MAX_LENGTH = 512  # of a sample
NUM_POSITIONS = 8  # of a sample, at which all logits are compared


class Tolerance(NamedTuple):
    """How far apart two ways of computing the same may be. Logits count in units of their spread."""

    typical: float  # root mean square over all logits
    largest: float  # one token's row of the head that was forgotten shows here
    nll: float  # nats, mean over tokens


# In float32 only the order of sums differs. In 16 bits merging rounds every weight by up to 1/256 (bfloat16) of itself.
TOLERANCES = {"float32": Tolerance(1e-3, 1e-2, 1e-3), "bfloat16": Tolerance(0.05, 1.0, 0.02)}
TOLERANCES["float16"] = TOLERANCES["bfloat16"]


class Sample(NamedTuple):
    """A sample that the run holds out, or trains on where it holds out none."""

    task: str
    ids: list[int]
    supervised: list[int]  # the tokens, by place, that count in the loss


class Expected(NamedTuple):
    """What the trained model says."""

    samples: list[Sample]
    conversations: list[tuple[Conversation, list[int]]]  # and the ids that training makes of them
    texts: list[str]  # of the samples
    nll: list[Tensor]  # [L - 1] of each sample, in nats
    logits: list[Tensor]  # [P, V]
    positions: list[list[int]]


def real_samples(config: Config, fingerprint: str | None) -> list[Sample]:
    """Whole or cut samples of every task, from the run's shards; none if these are not there or were made anew."""
    try:
        shards = Shards.open(shards_path(config))
    except (MftcoderError, OSError):
        return []
    if fingerprint not in (None, shards.manifest.fingerprint):
        return []
    return [sample for task in shards.tasks for sample in _of_task(shards, task, MAX_TOKENS // len(shards.tasks))]


def _of_task(shards: Shards, task: str, max_tokens: int) -> list[Sample]:
    found: list[Sample] = []
    for row in shards.rows(task, "validation") or shards.rows(task, "train"):
        ends = np.cumsum(row.segment_lengths)
        for start, end in zip(ends - row.segment_lengths, ends, strict=True):
            end = min(end, start + MAX_LENGTH, start + max_tokens)
            supervised = np.flatnonzero(row.supervised[start:end]).tolist()
            if end - start >= 2 and supervised:
                found.append(Sample(task, row.input_ids[start:end].tolist(), supervised))
                max_tokens -= int(end - start)
            if max_tokens < 2 or len(found) == 32:
                return found
    return found


def training_conversations(config: Config) -> list[Conversation]:
    """The first conversation of every task that has one, as far as the sources are there; else one made up."""
    found = []
    for task in config.data.tasks:
        try:
            record = next(read_records(task), None)
        except (MftcoderError, OSError):
            continue
        if isinstance(record, Conversation):
            found.append(record)
    return found or [Conversation((Message("user", "2 + 3", False), Message("assistant", "5", True)))]


def expect(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, samples: list[Sample]
) -> Expected:
    """What ``model``, as it was trained, says to ``samples``."""
    if not samples:  # the data are elsewhere
        ids = tokenizer("def add(a, b):\n    return a + b\n").input_ids[:MAX_LENGTH]
        samples = [Sample("text", ids, list(range(1, len(ids))))]
    conversations = []
    if tokenizer.chat_template:
        chats = training_conversations(config)
        encoded = encode(chats, tokenizer, parse_control=True)  # as the template alone has it
        conversations = [(chat, one.input_ids.tolist()) for chat, one in zip(chats, encoded, strict=True)]
    positions = [
        np.linspace(0, len(s.ids) - 2, min(NUM_POSITIONS, len(s.ids) - 1)).astype(int).tolist() for s in samples
    ]
    texts = [tokenizer.decode(sample.ids) for sample in samples]
    nll, logits = _answers(model, samples, positions)
    return Expected(samples, conversations, texts, nll, logits, positions)


@torch.no_grad()
def _answers(
    model: PreTrainedModel, samples: Sequence[Sample], positions: list[list[int]]
) -> tuple[list[Tensor], list[Tensor]]:
    token_nll = TokenNLL(model, adapter_of(model.config)).eval()
    nll, logits = [], []
    for sample, places in zip(samples, positions, strict=True):
        ids = torch.tensor([sample.ids])
        nll.append(token_nll(make_batch(ids, torch.arange(ids.shape[1])[None]))[0].float())
        logits.append(model(input_ids=ids, use_cache=False).logits[0, places].float())
    return nll, logits


def verify(folder: Path, config: Config, expected: Expected, *, merged: bool, num_embeddings: int) -> dict[str, Any]:
    """Ask a fresh process what ``folder`` says.

    Returns the findings as JSON: how many samples, tokens and conversations, the typical and the largest difference of
    logits in units of their spread, and each task's NLL as ``trained`` and as ``exported``.

    Raises RunError, with these figures, if the folder cannot be loaded or says something else.
    """
    with tempfile.TemporaryDirectory(prefix="mftcoder-") as scratch:
        request = Path(scratch) / "request.json"
        request.write_text(json.dumps(_request(folder, config, expected, merged=merged, num_embeddings=num_embeddings)))
        command = [sys.executable, "-m", "mftcoder.export.reload", str(request), scratch]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = "\n".join(done.stderr.strip().splitlines()[-3:])
            raise RunError(f"export: transformers cannot use what was written; nothing is exported.\n{reason}")
        found = load_file(Path(scratch) / "answers.safetensors")
        rendered = json.loads((Path(scratch) / "rendered.json").read_text())
    _check_rendering(expected, rendered)
    return _check_answers(expected, found, TOLERANCES[config.model.dtype])


def _request(folder: Path, config: Config, expected: Expected, *, merged: bool, num_embeddings: int) -> dict[str, Any]:
    quantization = config.model.quantization and {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": config.model.quantization.type,
        "bnb_4bit_use_double_quant": config.model.quantization.double_quantization,
    }
    base = {"path": config.model.path, "revision": config.model.revision, "quantization": quantization}
    return {
        "folder": str(folder.resolve()),
        "base": None if merged else base,
        "num_embeddings": num_embeddings,
        "dtype": config.model.dtype,
        "trust_remote_code": config.model.trust_remote_code,
        "samples": [sample.ids for sample in expected.samples],
        "positions": expected.positions,
        "conversations": [
            {"messages": template_messages(chat), "tools": list(chat.tools) or None}
            for chat, _ in expected.conversations
        ],
    }


def _check_rendering(expected: Expected, rendered: dict[str, Any]) -> None:
    for (chat, ids), found in zip(expected.conversations, rendered["conversations"], strict=True):
        if ids != found:
            place = next(
                (i for i, (a, b) in enumerate(zip(ids, found, strict=False)) if a != b), min(map(len, (ids, found)))
            )
            raise RunError(
                f"export: {chat.where}: the exported chat template gives other tokens than training had, from token "
                f"{place} on: {ids[place : place + 5]}… was {found[place : place + 5]}…; nothing is exported."
            )
    for sample, text, found in zip(expected.samples, expected.texts, rendered["texts"], strict=True):
        if text != found:
            raise RunError(
                f"export: the exported tokenizer decodes a sample of {sample.task} otherwise; nothing is exported."
            )


def _check_answers(expected: Expected, found: dict[str, Tensor], tolerance: Tolerance) -> dict[str, Any]:
    logits = torch.cat([one.flatten() for one in expected.logits]).double()
    others = torch.cat([found[f"logits.{i}"].flatten() for i in range(len(expected.samples))]).double()
    if logits.shape != others.shape:
        raise RunError(f"export: {len(others)} logits where the trained model has {len(logits)}; nothing is exported.")
    difference = (logits - others) / logits.std()
    typical, largest = float(difference.square().mean().sqrt()), float(difference.abs().max())
    tasks = _losses_by_task(expected, found)
    tokens = sum(task["tokens"] for task in tasks.values())
    trained, exported = (
        sum(task[which] * task["tokens"] for task in tasks.values()) / tokens for which in ("trained", "exported")
    )
    findings = {
        "samples": len(expected.samples),
        "conversations": len(expected.conversations),
        "tokens": tokens,
        "logits": {"typical": typical, "largest": largest},
        "nll": {"trained": trained, "exported": exported},
        "tasks": tasks,
    }
    close = abs(exported - trained) <= tolerance.nll
    if not (typical <= tolerance.typical and largest <= tolerance.largest and close):  # also what is not a number
        raise RunError(
            f"export: the folder does not say what the trained model says: {describe(findings)}. Allowed are "
            f"{tolerance.typical:g}, {tolerance.largest:g} and {tolerance.nll:g} nats. Nothing is exported; "
            "--no-verify would write it anyway."
        )
    return findings


def _losses_by_task(expected: Expected, found: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """The mean NLL of the supervised tokens of each task, as ``trained`` and as ``exported``; and their number."""
    tasks = {}
    for name in dict.fromkeys(sample.task for sample in expected.samples):
        numbers = [number for number, sample in enumerate(expected.samples) if sample.task == name]
        counted = {number: [place - 1 for place in expected.samples[number].supervised] for number in numbers}
        trained = torch.cat([expected.nll[number][counted[number]] for number in numbers]).double()
        exported = torch.cat([found[f"nll.{number}"][counted[number]] for number in numbers]).double()
        tasks[name] = {
            "trained": float(trained.mean()),
            "exported": float(exported.mean()),
            "tokens": len(trained),
        }
    return tasks


def describe(findings: dict[str, Any]) -> str:
    """The findings in a line."""
    logits, nll = findings["logits"], findings["nll"]
    return (
        f"logits differ by {logits['typical']:.2g} of their spread, at most {logits['largest']:.2g}; NLL "
        f"{nll['trained']:.4f} trained, {nll['exported']:.4f} exported ({nll['exported'] - nll['trained']:+.2g} nats, "
        f"{findings['tokens']:,} tokens of {findings['samples']} samples)"
    )
