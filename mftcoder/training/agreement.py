"""Whether ranks that must hold the same things do: a fault of memory or of a network would else spread unseen.

Each rank makes a digest of its weights and of the state beside them; if all are equal that is all. If not, the parts
are compared one by one and the run stops. Under ZeRO 0 to 2 every rank holds all weights; under ZeRO 3 each has a part
of its own that no other could check, and only the small weights that all keep whole are compared.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mftcoder.distributed import Group
from mftcoder.errors import RunError

WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)  # the widest are the fastest
ROUNDING = 1e-6  # relative; hosts of different makes may differ so in the logarithms and roots of weightings
SHOWN = 3  # weights, or characters of a value, times forty


@torch.no_grad()
def digest(weight: Tensor) -> Tensor:
    """[] int64: the sum, modulo 2^64, of its bits as whole numbers. Any single change of bits changes it."""
    flat = weight.detach().contiguous().view(-1).view(torch.uint8)
    word = next(dtype for dtype in WORDS if flat.numel() % dtype.itemsize == 0)
    aligned = flat.storage_offset() % word.itemsize == 0  # not always so in a buffer that holds several weights
    words = (flat if aligned else flat.clone()).view(word)
    return words.sum(dtype=torch.int64)


def check_agreement(step: int, weights: Iterable[tuple[str, Tensor]], state: Mapping[str, Any], group: Group) -> None:
    """RunError on all ranks that says which of ``weights`` (name, value) and ``state`` differ, and on which ranks.

    Numbers of ``state`` may differ by rounding. Collective.
    """
    names, sums = [], []
    for name, weight in weights:
        if weight.numel():
            names.append(name)
            sums.append(digest(weight))
    digests = torch.stack(sums).tolist() if sums else []  # one wait for the device
    mine = dict(zip(names, digests, strict=True))
    short = hashlib.blake2b(json.dumps([mine, state], sort_keys=True).encode(), digest_size=16).hexdigest()
    if len(set(group.gather(short))) == 1:
        return
    problems = [*_differing_weights(group.gather(mine)), *_differing_state(group.gather(dict(state)))]
    if problems:
        group.on_main(lambda: _refuse(step, problems))


def _refuse(step: int, problems: Sequence[str]) -> None:
    raise RunError(
        f"step {step}: the ranks do not agree: {'; '.join(problems)}. A device or a link is at fault, or a rank runs "
        "other code: see training.agreement_steps. Resume from a checkpoint before the disagreement, without that host."
    )


def _differing_weights(by_rank: Sequence[Mapping[str, int]]) -> list[str]:
    differing = {}
    for name in by_rank[0]:
        if odd := odd_ranks([weights.get(name) for weights in by_rank]):
            differing[name] = odd
    if not differing:
        return []
    named = ", ".join(list(differing)[:SHOWN])
    more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return [f"weights differ on {next(iter(differing.values()))}: {named}{more}"]


def _differing_state(by_rank: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for name in by_rank[0]:
        values = [state[name] for state in by_rank]
        if not all(alike(values[0], value) for value in values):
            shown = " but ".join(_short(value) for value in _distinct(values))
            found.append(f"{name} differs on {odd_ranks(values)}: {shown}")
    return found


def odd_ranks(values: Sequence[Any]) -> str:
    """The ranks whose value is not that of most; all of them if no value is that of more than half. Empty if equal."""
    distinct = _distinct(values)
    if len(distinct) == 1:
        return ""
    counts = [sum(value == one for value in values) for one in distinct]
    usual = distinct[counts.index(max(counts))] if max(counts) * 2 > len(values) else object()
    odd = [str(rank) for rank, value in enumerate(values) if value != usual]
    return f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(odd)}"


def alike(a: Any, b: Any) -> bool:
    """Whether two JSON-like values are equal, but for rounding."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _distinct(values: Sequence[Any]) -> list[Any]:
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN * 40 else f"{text[: SHOWN * 40]}…"
