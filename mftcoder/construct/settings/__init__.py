"""The config of ``construct run``: sections, keys, defaults; read from JSON as the training config is.

One file per part: ``endpoint`` for the model that is asked, ``generators`` for what it is asked, ``samples`` for what
is kept of its answers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from mftcoder.config import problems
from mftcoder.config.describe import settings
from mftcoder.config.load import apply_override, read_json
from mftcoder.config.schema import NonEmpty, Section, TaskName
from mftcoder.construct.settings.endpoint import Budget, EndpointSettings, Request
from mftcoder.construct.settings.generators import Generator, Transform
from mftcoder.construct.settings.samples import Decontaminate, Deduplicate, ExecuteVerification, Quality, Verification
from mftcoder.errors import MftcoderError


class ConstructConfig(Section):
    """One task, made by asking a model."""

    out: NonEmpty = Field(description="Folder for the task file and what lies beside it.")
    task: TaskName = Field(description="Name of the task: the file is `out`/`task`.jsonl.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Of everything that is drawn.")
    generator: Generator
    endpoint: EndpointSettings = EndpointSettings()
    request: Request = Request()
    budget: Budget = Budget()
    quality: Quality = Quality()
    verify: Verification | None = Field(None, description="How samples are proven; default: not at all.")
    deduplicate: Deduplicate | None = Deduplicate()
    decontaminate: Decontaminate | None = Field(None, description="Benchmarks to keep out; default: none.")


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConstructConfig:
    """The config in the JSON file ``path``, after ``overrides`` such as ``endpoint.model=…``.

    Raises MftcoderError that lists every problem of the file.
    """
    raw = read_json(path)
    for override in overrides:
        apply_override(raw, override)
    raw.pop("$schema", None)
    try:
        config = ConstructConfig.model_validate(raw)
        found = list(_contradictions(config))
    except ValidationError as error:
        found = problems.of_schema(error, raw, settings(ConstructConfig))
    if found:
        raise MftcoderError("\n".join(f"{path}: {problem}" for problem in found))
    return config


def execute_settings(overrides: Sequence[str]) -> ExecuteVerification:
    """The section ``verify`` of type ``execute``, with ``overrides`` such as ``mutants=8``. Raises MftcoderError."""
    raw: dict[str, Any] = {"type": "execute"}
    for override in overrides:
        apply_override(raw, override)
    try:
        return ExecuteVerification.model_validate(raw)
    except ValidationError as error:
        found = problems.of_schema(error, raw, settings(ExecuteVerification))
        raise MftcoderError("\n".join(f"--set: {problem}" for problem in found)) from None


def _contradictions(config: ConstructConfig) -> Iterator[str]:
    """What the schema cannot see."""
    if config.budget.money and not config.budget.prices:
        yield "budget.prices: missing. Without prices, budget.money says nothing."
    if isinstance(config.generator, Transform) and config.generator.snippets and config.generator.roots:
        yield "generator.snippets: there is generator.roots, too. Keep one of them."
