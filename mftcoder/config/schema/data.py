"""Section ``data``: task files, and how they become packed shards."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema.base import Fraction, NonEmpty, PositiveFloat, PositiveInt, Section, TaskName


class TemplateChat(Section):
    """Conversations are rendered by the tokenizer's own chat template, or by a Jinja file."""

    type: Literal["template"] = "template"
    file: NonEmpty | None = Field(None, description="A Jinja file that replaces the tokenizer's chat template.")


class MarkersChat(Section):
    """Conversations are rendered as role marker + content; answers end with the tokenizer's eos token."""

    type: Literal["markers"]
    system: str = Field("<s>system\n", description="Text before a system message.")
    user: str = Field("<s>human\n", description="Text before a user message.")
    assistant: str = Field("<s>bot\n", description="Text before an assistant message.")


class Packing(Section):
    """How samples become rows."""

    mode: Literal["pack", "pad", "pad_to_max"] = Field(
        "pack",
        description="`pack`: many samples a row; `pad`: one sample a row, padded to the longest of the micro-batch; "
        "`pad_to_max`: one sample a row, padded to sequence_length. Padding costs time and teaches nothing: these "
        "two are for comparison.",
    )
    isolate_samples: bool = Field(
        True,
        description="Samples of one row do not see each other. `false` is MFTCoder's variant: earlier samples of the "
        "same task act as context.",
    )


class ProportionalSampling(Section):
    """Every row of every task exactly once per epoch."""

    type: Literal["proportional"] = "proportional"


MaxPasses = Annotated[
    Annotated[float, Field(ge=1)] | None,
    Field(
        description="At most so often does an epoch hold a row of a task; what this takes from small tasks the others "
        "get, in proportion to their shares. Default: no limit."
    ),
]


class TemperatureSampling(Section):
    """Tasks give rows in proportion to (their number of rows)^(1 / temperature)."""

    type: Literal["temperature"]
    temperature: Annotated[float, Field(ge=1)] = Field(description="1: proportional; the larger, the more equal.")
    max_passes: MaxPasses = None


class GivenSampling(Section):
    """Tasks give rows in fixed proportions."""

    type: Literal["given"]
    shares: dict[str, PositiveFloat] = Field(
        description="Task name to share of the rows; all tasks. Need not sum to 1."
    )
    max_passes: MaxPasses = None


class EqualSampling(Section):
    """All tasks give equally many rows; with max_passes this is UniMax (Chung et al., 2023)."""

    type: Literal["equal"]
    max_passes: MaxPasses = None


class WeightedSampling(Section):
    """Tasks that weigh more give more rows: in proportion to rows^(1 - share) x weight^share."""

    type: Literal["weighted"]
    share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="s: 0 samples by the number of rows, 1 by the weights alone. The loss counts a task as before."
    )


Sampling = Annotated[
    ProportionalSampling | TemperatureSampling | GivenSampling | EqualSampling | WeightedSampling,
    Field(discriminator="type"),
]


class HubDataset(Section):
    """A dataset that the `datasets` library knows; the keys are those of its load_dataset."""

    path: NonEmpty = Field(description="Hub id, or a folder: with data files, or made by save_to_disk.")
    name: NonEmpty | None = Field(None, description="Configuration (subset), if it has several.")
    split: NonEmpty = Field("train", description="The split whose records are the task's.")
    validation_split: NonEmpty | None = Field(None, description="The split that is held out; default: see `data`.")
    revision: NonEmpty | None = Field(None, description="Branch, tag or commit on the hub.")


class Fim(Section):
    """Fill-in-the-middle (Bavarian et al., 2022): plain texts rearranged so that the model learns to insert."""

    rate: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="Share of the texts that are rearranged.")
    spm_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of these in which the suffix comes first (SPM); in the others the prefix does (PSM)."
    )
    sentinels: Annotated[list[NonEmpty], Field(min_length=3, max_length=3)] | None = Field(
        None, description="Tokens before prefix, suffix and middle; default: those of the tokenizer's family."
    )


HeldOut = float | int | Literal["files"]  # a share of the samples, a number of them, or all of files of their own


class Task(Section):
    """One task: a name and its files."""

    name: TaskName = Field(description="Letters, digits, dot, dash, underscore.")
    path: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None, description="File, folder (searched recursively) or glob, or several of them; here, or a URL for fsspec."
    )
    dataset: HubDataset | None = Field(None, description="A dataset of the hub or of a folder, instead of `path`.")
    where: dict[str, str | int] = Field(
        {}, description="Key of a record to value: only records that have all of these belong to the task."
    )
    format: str = Field("auto", description="Record format; `auto` detects it from the first record and says so.")
    supervise: Literal["all", "last"] = Field(
        "all", description='Which answers of a conversation are learnt, of those without `"train": false`.'
    )
    control_tokens: bool = Field(
        False,
        description="Text such as <|im_end|> in the task's records is read as that control token. By default it is "
        "ordinary text.",
    )
    fim: Fim | None = Field(None, description="Rearrange some of the task's plain texts as fill-in-the-middle.")
    validation: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None, description="File, folder or glob, or several, of the records that are held out; then none of `path` is."
    )
    validation_fraction: Fraction | None = Field(None, description="This task's own; default: that of `data`.")
    validation_samples: PositiveInt | None = Field(None, description="This task's own; default: that of `data`.")

    @property
    def held_out_source(self) -> "Task | None":
        """The task of the held-out records, where they lie in files or a split of their own."""
        if self.validation:
            return self.model_copy(update={"path": self.validation, "dataset": None})
        if self.dataset and self.dataset.validation_split:
            dataset = self.dataset.model_copy(update={"split": self.dataset.validation_split})
            return self.model_copy(update={"dataset": dataset})
        return None


class BenchmarkFiles(Section):
    """A benchmark whose items must not be trained on."""

    path: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        description="File, folder or glob of records, one item each, or several of them."
    )
    field: NonEmpty | None = Field(
        None,
        description="Key of the item's text; default: the first there is of docstring, prompt, description, text, "
        "question, instruction, query, problem. If docstrings stand in the text, the last of them is compared.",
    )


class Filters(Section):
    """Samples that are left out: duplicates, training samples like held-out ones, and what stands in a benchmark."""

    compare: Literal["all", "prompt", "answer"] = Field(
        "all", description="What of a conversation is compared for duplicates; of plain text it is always all."
    )
    ignore: list[Literal["whitespace", "case"]] = Field(
        ["whitespace"], description="What exact duplicates may differ in."
    )
    similarity: Annotated[float, Field(ge=0.3, lt=1)] | None = Field(
        0.8,
        description="Jaccard similarity (of the sets of runs of five words) from which on two samples are "
        "near-duplicates; `null`: only exact duplicates count.",
    )
    duplicates: Literal["off", "within", "across"] = Field(
        "within", description="Leave out samples that repeat an earlier one: of their task, or of any task."
    )
    leakage: Literal["off", "report", "remove"] = Field(
        "remove", description="Training samples that repeat a held-out one of any task: leave them out, or list them."
    )
    benchmarks: list[BenchmarkFiles] = Field([], description="Benchmarks whose items must not be trained on.")
    bleu: Fraction | None = Field(
        0.5, description="A sample with a higher BLEU against a benchmark's item is left out; `null`: no such test."
    )
    ngram_words: PositiveInt | None = Field(
        13, description="A sample that shares that many words in a row with an item is left out; `null`: no such test."
    )


class Data(Section):
    """Task files and how they become shards."""

    shards: NonEmpty | None = Field(None, description="Folder of the packed shards; default: `shards` in output_dir.")
    samples: NonEmpty | None = Field(
        None,
        description="Folder of the encoded samples, from which rows of any length are packed; configs may share one. "
        "Default: `shards` with `.samples` behind it.",
    )
    keep_samples: bool = Field(
        True,
        description="Keep the encoded samples: packing them otherwise, or adding a task, is then a matter of "
        "seconds. `false` removes them once the shards are made.",
    )
    sequence_length: Annotated[int, Field(gt=1)] = Field(
        2048, description="Tokens per row. Memory of activations grows with it; longer samples are cut or split."
    )
    packing: Packing = Packing()
    validation_fraction: Fraction = Field(
        0.05, description="Share of each task's samples, or of the groups that its records name, that is held out."
    )
    validation_samples: PositiveInt | None = Field(
        None, description="Number of each task's samples to hold out, at most half of them, instead of a share."
    )
    over_long: Literal["truncate", "drop", "split"] = Field(
        "truncate",
        description="What happens to a conversation longer than a row: `truncate` takes whole exchanges off its end, "
        "`drop` drops it, `split` makes several samples of it, each with the system prompt. Plain text is split into "
        "rows.",
    )
    bytes_per_file: PositiveInt = Field(
        512 * 2**20, description="About the size of the files that shards are cut into; the rows stay the same."
    )
    max_bad_records: Annotated[int, Field(ge=0)] = Field(
        0, description="So many records of a task that cannot be read or encoded are listed and passed over."
    )
    filters: Filters | None = Field(None, description="Samples that are left out; default: none.")
    chat: Annotated[TemplateChat | MarkersChat, Field(discriminator="type")] = TemplateChat()
    sampling: Sampling = ProportionalSampling()
    tasks: list[Task] = Field(min_length=1, description="The tasks, in order.")

    def held_out(self, task: Task) -> HeldOut:
        """What of ``task`` is held out for validation."""
        if task.held_out_source:
            return "files"
        if task.validation_samples is not None or task.validation_fraction is not None:
            return task.validation_samples or task.validation_fraction or 0.0
        return self.validation_samples or self.validation_fraction

    @property
    def holds_out(self) -> bool:
        """Whether any task has validation samples."""
        return any(self.held_out(task) != 0 for task in self.tasks)
