"""Sections ``quality``, ``verify``, ``deduplicate`` and ``decontaminate``: which samples are kept."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema import BenchmarkFiles, Fraction, NonEmpty, PositiveFloat, PositiveInt, Section

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


class ExecuteVerification(Section):
    """Solutions and their tests are executed in a sandbox; needs `--allow-execution`. Samples without tests fail."""

    type: Literal["execute"]
    mutants: Annotated[int, Field(ge=0, le=100)] = Field(
        4, description="Solutions made wrong in one place, of which the tests must notice one; 0: no such test."
    )
    unverifiable: Literal["drop", "keep"] = Field(
        "drop", description="Samples in a language, or with modules, that this machine does not have."
    )
    cpu_seconds: PositiveFloat = Field(10.0, description="Processor time of a solution with its tests, compiling too.")
    wall_seconds: PositiveFloat = Field(60.0, description="Time of the same on the clock, however busy the machine.")
    memory_mib: PositiveInt = Field(1024, description="Memory of the same, in MiB.")
    modules: dict[Literal["python", "javascript", "java", "cpp"], NonEmpty] = Field(
        {}, description="Folders with modules that programs may import, by language, such as a `node_modules`."
    )


Verification = Annotated[ParseVerification | ExecuteVerification, Field(discriminator="type")]


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
