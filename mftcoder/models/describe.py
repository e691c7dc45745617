"""The table of model families as Markdown: configs/models.md is written from it."""

from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig

from mftcoder.models.adapter import CausalAdapter
from mftcoder.models.families import ADAPTERS, GENERIC
from mftcoder.models.router import RouterLoss

BEGIN, END = "<!-- families: begin (generated) -->", "<!-- families: end -->"
ISOLATION = {"positions": "by positions", "block_mask": "by a block mask", "none": "not isolated: refused"}


def refresh(page: Path) -> None:
    """Write the table in ``page`` (configs/models.md) anew, between its markers."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(before + markdown() + rest.split(END)[1], encoding="utf-8")


def markdown() -> str:
    """The table, between the markers."""
    head = [
        "| Family | `model_type` | Packed samples | Experts | Role tokens | Infilling tokens |",
        "|---|---|---|---|---|---|",
    ]
    rows = ["| " + " | ".join(_cells(*row)) + " |" for row in [*ADAPTERS.items(), ("", GENERIC)]]
    return "\n".join([BEGIN, "", *head, *rows, "", END])


def _cells(model_type: str, adapter: CausalAdapter) -> Iterator[str]:
    yield adapter.families + (" (remote code)" if adapter.remote else "")
    yield f"`{model_type}`" if model_type else "any other"
    yield ISOLATION[adapter.isolation] if model_type else "by positions, if the check finds that it works"
    yield _experts(model_type) if adapter.experts else ""
    yield "; ".join(dict.fromkeys(_code(known.roles) for known in adapter.tokens if known.roles))
    yield "; ".join(dict.fromkeys(_code(known.infilling) for known in adapter.tokens if known.infilling))


def _experts(model_type: str) -> str:
    balanced = RouterLoss.of(AutoConfig.for_model(model_type), 1.0) is not None
    return "fused, router loss" if balanced else "fused, no router loss"


def _code(tokens: tuple[str, ...]) -> str:
    return " ".join(f"`{token}`" for token in tokens).replace("|", "\\|")
