"""Sections ``quality``, ``verify``, ``deduplicate`` and ``decontaminate``: which samples are kept."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema import BenchmarkFiles, Fraction, PositiveFloat, PositiveInt, Section

Language = Annotated[str, Field(pattern="^[a-z]{2,3}$")]


class Quality(Section):
    """What a sample must be like, judged by its text alone."""

    min_prompt_chars: PositiveInt = Field(10, description="Of every user message.")
    min_answer_chars: PositiveInt = Field(1, description="Of every answer.")
    max_chars: PositiveInt = Field(20_000, description="Of the whole conversation: about 5,000 tokens.")
    languages: list[Language] | None = Field(
        None,
        description='ISO codes of the languages that prose may be in, such as `["en"]`, code aside. Default: any.',
    )
    refusals: Literal["drop", "keep"] = Field("drop", description="Answers in which the model declines.")
    boilerplate: Literal["drop", "keep"] = Field(
        "drop", description="Answers with phrases about being a model, or with a gap where code should be."
    )
    max_repetition: PositiveFloat | None = Field(
        8.0, description="How far an answer may shrink under zlib before it counts as a loop; `null`: no such test."
    )
    answer_format: bool = Field(
        True, description="Answers must hold the code block or the JSON that was asked for, and close every code block."
    )


class ParseVerification(Section):
    """The Python code of answers must parse; nothing is executed."""

    type: Literal["parse"]


Verification = Annotated[ParseVerification, Field(discriminator="type")]


class Deduplicate(Section):
    """Samples that repeat an earlier one are left out, as by `data.filters` of the training config."""

    compare: Literal["all", "prompt", "answer"] = Field("all", description="What of a conversation is compared.")
    ignore: list[Literal["whitespace", "case"]] = Field(
        ["whitespace"], description="What exact duplicates may differ in."
    )
    similarity: Annotated[float, Field(ge=0.3, lt=1)] | None = Field(
        0.8, description="Jaccard similarity of runs of five words from which on; `null`: only exact duplicates."
    )


class Decontaminate(Section):
    """Samples that hold an item of a benchmark are left out, as by `data.filters` of the training config."""

    benchmarks: Annotated[list[BenchmarkFiles], Field(min_length=1)] = Field(description="The benchmarks' files.")
    bleu: Fraction | None = Field(0.5, description="BLEU against an item from which on; `null`: no such test.")
    ngram_words: PositiveInt | None = Field(13, description="Words in a row shared with an item; `null`: no such test.")
