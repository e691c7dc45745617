"""The loss of every task on held-out samples, of one model, or of two with the uncertainty of their difference."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import nn
from transformers import PreTrainedTokenizerFast

from mftcoder.data.inputs import vocabulary_hash
from mftcoder.data.loader import Loader
from mftcoder.data.shards import Rows, Shards
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL
from mftcoder.models.check import check_model
from mftcoder.models.families import adapter_of
from mftcoder.training.trained import load_for_use

ROWS_PER_BATCH = 8
RESAMPLES = 2000


class SampleLosses(NamedTuple):
    """The supervised NLL of N samples, in the order of their ids."""

    totals: NDArray[np.float64]  # [N] nats
    tokens: NDArray[np.int64]  # [N]


def evaluate(model: str, shards: Shards, *, split: str = "validation", against: str | None = None) -> dict[str, Any]:
    """NLL per supervised token of every task on ``split``, each sample by itself.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        shards: the packed shards; the model's tokenizer must be the one they were made with.
        against: another model; then each task also has the relative ``change`` of NLL from it to ``model`` and a 95 %
            interval of that, by a paired bootstrap over samples.
    """
    if not any(len(shards.rows(task, split)) for task in shards.tasks):
        raise MftcoderError(
            f"{shards.folder}: the split {split} is empty. Tokenize with a data.validation_fraction above 0."
        )
    ours = _losses(model, shards, split)
    theirs = _losses(against, shards, split) if against else None
    tasks: dict[str, dict[str, Any]] = {}
    for task, found in ours.items():
        tasks[task] = {"nll": _mean(found), "tokens": int(found.tokens.sum()), "samples": len(found.tokens)}
        if theirs:
            change = found.totals.sum() / theirs[task].totals.sum() - 1
            interval = paired_bootstrap(found.totals, theirs[task].totals)
            tasks[task] |= {"against": _mean(theirs[task]), "change": float(change), "interval": interval}
    return {"model": str(model), "against": against, "shards": str(shards), "split": split, "tasks": tasks}


def table(result: dict[str, Any]) -> Table:
    """``result`` of ``evaluate`` for people."""
    both = result["against"] is not None
    columns = ["task", "samples", "tokens", "nll", *(["against", "change", "95 % interval"] if both else [])]
    shown = Table(*columns, title=f"NLL per token (nats), {result['split']}")
    for name, task in result["tasks"].items():
        cells = [name, f"{task['samples']:,}", f"{task['tokens']:,}", f"{task['nll']:.4f}"]
        if both:
            interval = " … ".join(f"{bound:+.1%}" for bound in task["interval"] or ()) or "one sample"
            cells += [f"{task['against']:.4f}", f"{task['change']:+.1%}", interval]
        shown.add_row(*cells)
    return shown


def paired_bootstrap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> list[float] | None:
    """The central 95 % of the relative change Σ ours / Σ theirs − 1 when the N samples are drawn anew with replacement.

    Both models see the same draw, so what makes a sample easy or hard for both cancels. None of fewer than two samples,
    which say nothing about how samples differ.
    """
    if len(ours) < 2:
        return None
    generator = np.random.default_rng(0)
    counts = (generator.multinomial(len(ours), np.full(len(ours), 1 / len(ours))) for _ in range(RESAMPLES))
    changes = [(draw @ ours) / (draw @ theirs) - 1 for draw in counts]
    return [float(bound) for bound in np.quantile(changes, [0.025, 0.975])]


def _mean(losses: SampleLosses) -> float:
    return float(losses.totals.sum() / losses.tokens.sum())


def load_for_shards(name: str, shards: Shards) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """As ``load_for_use``; MftcoderError if ``shards`` were made with another tokenizer."""
    model, tokenizer = load_for_use(name)
    made_with = shards.manifest.inputs.tokenizer
    if vocabulary_hash(tokenizer) != made_with.hash:
        raise MftcoderError(
            f"{shards.folder} was made with the tokenizer of {made_with.path}; that of {name} is another. "
            "Tokenize the tasks for this model."
        )
    return model, tokenizer


def _losses(name: str, shards: Shards, split: str) -> dict[str, SampleLosses]:
    """By task, leaving out tasks that the split does not hold."""
    model, _ = load_for_shards(name, shards)
    nll = TokenNLL(model, adapter_of(model.config))
    packed = shards.manifest.inputs.settings.packing == "pack"
    check_model(nll, lambda batch: nll(batch)[0], device=next(nll.parameters()).device, isolate_samples=packed)
    rows = {task: shards.rows(task, split) for task in shards.tasks}
    return {task: _task_losses(nll, found) for task, found in rows.items() if len(found)}


@torch.no_grad()
def _task_losses(model: TokenNLL, rows: Rows) -> SampleLosses:
    loader = Loader([rows], rank=0, num_ranks=1, isolate_samples=True, length=None)
    device = next(model.parameters()).device
    keys, totals, tokens = [], [], []
    for batch in loader.deal([(0, row) for row in range(len(rows))], ROWS_PER_BATCH):
        values = model(batch.to(device))[0].double().cpu().numpy()
        samples, count = batch.sample_ids.numpy(), len(batch.sample_keys)
        keys.append(batch.sample_keys.numpy())
        totals.append(np.bincount(samples, values, count).astype(np.float64))
        tokens.append(np.bincount(samples, minlength=count))
    order = np.argsort(np.concatenate(keys))
    return SampleLosses(np.concatenate(totals)[order], np.concatenate(tokens)[order])
