"""The training config: every section, key, type, range and default. ``config.load`` reads it from JSON.

In ``training``, names and meanings follow ``transformers.TrainingArguments``. Counts of steps are optimizer steps.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
ByTask = dict[str, Annotated[float, Field(ge=0)]]  # task name -> number
NonEmpty = Annotated[str, Field(min_length=1)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are not coerced, the result cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Section):
    """Low-rank adapters (Hu et al., 2021) through peft."""

    rank: PositiveInt = Field(
        32,
        description="Rank of the two factors: room to learn, for memory and time in proportion. 8 to 64 is usual.",
    )
    alpha: Annotated[float, Field(gt=0)] = Field(
        64, description="The adapter's output is scaled by alpha / rank; keep the ratio."
    )
    dropout: Fraction = Field(0.05, description="Dropout on the adapter's input, against overfitting on small tasks.")
    target_modules: str | list[str] = Field(
        "all-linear", description='Modules that get an adapter: "all-linear" (all but the head), a regex, or names.'
    )
    target_parameters: list[NonEmpty] = Field(
        [],
        description="Parameters that get an adapter though they are no linear layer: the fused experts of a mixture, "
        'e.g. `["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]`. Needs dropout 0.',
    )
    modules_to_save: list[NonEmpty] = Field(
        [],
        description="Modules that are trained whole beside the adapters, at the full cost of gradients and moments, "
        'e.g. `["embed_tokens", "lm_head"]` for new tokens.',
    )
    rank_stabilized: bool = Field(
        False, description="Scale by alpha / sqrt(rank) (rsLoRA; Kalajdzievski, 2023): high ranks keep their effect."
    )
    dora: bool = Field(
        False,
        description="Train the norm of every weight row apart from its direction (DoRA; Liu et al., ICML 2024): "
        "nearer to training all parameters at low ranks, for more time and memory per step.",
    )
    initialization: Literal["zero", "pissa"] = Field(
        "zero",
        description="`zero`: the adapter adds nothing at first; `pissa`: it begins as the principal components of the "
        "weight (Meng et al., NeurIPS 2024), by one SVD per weight at every start.",
    )


class Quantization(Section):
    """The frozen base model in 4 bits (QLoRA; Dettmers et al., NeurIPS 2023) through bitsandbytes.

    Linear layers but the head are quantized while loading; they compute in ``model.dtype``.
    """

    type: Literal["nf4"] = "nf4"
    double_quantization: bool = Field(True, description="Quantize the scales too: 4.13 bits per weight, not 4.5.")


class Model(Section):
    """The base model and how it is adapted."""

    path: NonEmpty = Field(description="Folder or hub id of the base model, with its tokenizer.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16",
        description="Precision of weights and arithmetic; losses and their sums are float32 or better. `float16`, with "
        "dynamic loss scaling, is for GPUs without bfloat16: steps that overflow are skipped, their losses unused.",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        "auto",
        description="Attention backend. `auto` takes FlashAttention where it is installed, else sdpa; others force it.",
    )
    router_loss_coefficient: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Weight of the load-balancing loss of mixture-of-experts models; default: the model's own."
    )
    lora: Lora | None = Field(
        None,
        description="Train adapters instead of all parameters: a fraction of the gradients and moments, "
        "and small checkpoints. The learning rate is about ten times higher.",
    )
    quantization: Quantization | None = Field(
        None,
        description="Hold the base model in 4 bits, a quarter of bfloat16's memory, for slower steps and some "
        "precision; only adapters can be trained on it. For GPUs that do not hold the model otherwise.",
    )
    trust_remote_code: bool = Field(False, description="Allow code from the model's folder to run. Leave it off.")


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


class TokenReduction(Section):
    """A task's loss is the mean over its supervised tokens (MFTCoder Eq. 1)."""

    type: Literal["token"] = "token"


class SampleReduction(Section):
    """A task's loss is the mean over its samples of each sample's token mean."""

    type: Literal["sample"]


class FocalSampleReduction(Section):
    """A sample counts -(1 - P)^gamma Q, with the means P of p and Q of log p over its tokens (MFTCoder Eq. 2)."""

    type: Literal["focal_sample"]
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="How much easy samples fade; 0: `sample`.")
    alpha: ByTask = Field({}, description="Task name to a factor of its loss; 1 for tasks that are not named.")


class FocalTaskReduction(Section):
    """A task counts -(1 - P)^gamma Q, with the means P and Q of its samples (MFTCoder Eq. 3), of the step before."""

    type: Literal["focal_task"]
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="How much easy tasks fade; 0: `sample`.")
    alpha: ByTask = Field({}, description="Task name to a factor of its loss; 1 for tasks that are not named.")


class Uniform(Section):
    """Every task weighs 1/K: the data-balanced loss of MFTCoder Eq. 1."""

    type: Literal["uniform"] = "uniform"


class Proportional(Section):
    """Every task weighs by its units in the step: ordinary SFT on the mixed data."""

    type: Literal["proportional"]


class Given(Section):
    """Fixed weights, one per task; normalised to sum 1."""

    type: Literal["given"]
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(description="Task name to weight; all tasks.")


class Famo(Section):
    """Tasks improve at equal rates (FAMO; Liu et al., NeurIPS 2023); costs a forward pass more per step."""

    type: Literal["famo"]
    learning_rate: PositiveFloat = Field(0.025, description="Adam's, of the logits of the weights.")
    decay: Annotated[float, Field(ge=0)] = Field(1e-3, description="Weight decay of the logits, gamma.")
    minimum_losses: ByTask = Field({}, description="Task name to the least loss it can have, in nats; default 0.")


class Dwa(Section):
    """Tasks whose losses fall more slowly weigh more (Dynamic Weight Averaging; Liu et al., CVPR 2019)."""

    type: Literal["dwa"]
    temperature: PositiveFloat = Field(2.0, description="T: the larger, the more equal the weights.")
    window_steps: PositiveInt = Field(50, description="Steps whose mean losses are compared with those before.")


class Uncertainty(Section):
    """Each task has a learned variance (Kendall et al., CVPR 2018). The weights do not sum to 1."""

    type: Literal["uncertainty"]
    learning_rate: PositiveFloat = Field(1e-2, description="Of the log-variances.")


class Lbtw(Section):
    """Tasks weigh by how little their training loss has fallen (LBTW; Liu et al., AAAI 2019)."""

    type: Literal["lbtw"]
    exponent: PositiveFloat = Field(0.5, description="b: weights in proportion to (loss / first loss)^b.")


SharedParameters = Annotated[
    Literal["final_norm", "lm_head"],
    Field(
        description="Whose gradients are compared: `final_norm`, its gain, costs nothing; `lm_head`, its weight, as in "
        "CoBa's comparison, keeps its gradient per task in float32 and makes the logits twice."
    ),
]


class GradNorm(Section):
    """The tasks' gradients are kept at the size their pace asks for (Chen et al., ICML 2018)."""

    type: Literal["gradnorm"]
    alpha: Annotated[float, Field(ge=0)] = Field(1.5, description="How strongly slower tasks are favoured.")
    learning_rate: PositiveFloat = Field(0.025, description="Of the weights; not that of the model.")
    shared: SharedParameters = "final_norm"


PROBE_EVERY_STEPS = 20


class Probe(Section):
    """The fixed validation rows that a weighting watches (shared by all validation-based weightings)."""

    every_steps: PositiveInt | None = Field(
        None,
        description="Optimizer steps between two looks; default 20, or more where a probe of one row of every task "
        "would then cost more than 5 % of training.",
    )
    tokens: PositiveInt | None = Field(
        None,
        description="Size of the probe, at least a row of every task; default 0.15 x every_steps x tokens per step, or "
        "all there are.",
    )


class CoBa(Section):
    """Convergence Balancer (Gong et al., EMNLP 2024): weights from the slopes of validation losses."""

    type: Literal["coba"]
    preset: Literal["efficient", "paper", "released"] = Field(
        "efficient",
        description="`efficient`: the whole probe every `every_steps`; `paper`: one of its M global mini-batches every "
        "step; `released`: as the code that MFTCoder released.",
    )
    window_steps: Annotated[int, Field(gt=1)] | None = Field(
        None,
        description="N: steps over which slopes are fitted; default 100 or five looks, `paper` 2M, `released` 200.",
    )
    warmup_steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="W: uniform weights before this step; default 40 or two looks, `paper` M, `released` 100."
    )
    temperature: Annotated[float, Field(gt=0)] = Field(5.0, description="tau of the divergence factor.")
    divergence_factor: Literal["running", "common"] | None = Field(
        None,
        description="Denominator of Eq. 7: the sum up to each slope (default), or one sum for all (`released`).",
    )
    floor: Fraction = Field(0.0, description="f: every weight is at least f; (1 - K f) w + f.")
    probe: Probe = Probe()


class FamoValid(Section):
    """FAMO on validation losses (FAMO*; MFTCoder Eq. 4)."""

    type: Literal["famo_valid"]
    learning_rate: PositiveFloat = Field(0.025, description="Adam's, of the logits of the weights.")
    decay: Annotated[float, Field(ge=0)] = Field(1e-3, description="Weight decay of the logits, gamma.")
    minimum_losses: ByTask = Field({}, description="Task name to the least loss it can have, in nats; default 0.")
    probe: Probe = Probe()


class LbtwValid(Section):
    """LBTW on validation losses."""

    type: Literal["lbtw_valid"]
    exponent: PositiveFloat = Field(0.5, description="b: weights in proportion to (loss / first loss)^b.")
    probe: Probe = Probe()


class GradNormValid(Section):
    """GradNorm with the pace of the tasks from validation losses."""

    type: Literal["gradnorm_valid"]
    alpha: Annotated[float, Field(ge=0)] = Field(1.5, description="How strongly slower tasks are favoured.")
    learning_rate: PositiveFloat = Field(0.025, description="Of the weights; not that of the model.")
    shared: SharedParameters = "final_norm"
    probe: Probe = Probe()


class Multiplicative(Section):
    """Every look at the probe multiplies a task's weight by exp(learning_rate x what it still has to learn)."""

    type: Literal["multiplicative"]
    learning_rate: PositiveFloat = Field(0.1, description="eta, per look at the probe.")
    prior: dict[str, PositiveFloat] = Field({}, description="Task name to weight at the start; default 1 each.")
    target_losses: ByTask = Field({}, description="Task name to the loss it is to reach, in nats; default 0.")
    floor: Fraction = Field(0.0, description="f: every weight is at least f; (1 - K f) w + f.")
    probe: Probe = Probe()


# preset -> window_steps, warmup_steps; those of "paper" are counted in global mini-batches of the probe
COBA_STEPS = {"efficient": (100, 40), "paper": (2, 1), "released": (200, 100)}

Reduction = Annotated[
    TokenReduction | SampleReduction | FocalSampleReduction | FocalTaskReduction, Field(discriminator="type")
]
Weighting = Annotated[
    Uniform
    | Proportional
    | Given
    | Famo
    | FamoValid
    | Lbtw
    | LbtwValid
    | Dwa
    | Uncertainty
    | GradNorm
    | GradNormValid
    | CoBa
    | Multiplicative,
    Field(discriminator="type"),
]


class Guard(Section):
    """The overfit guard: stop training on a task whose loss on the probe has turned for good."""

    patience: PositiveInt = Field(3, description="Looks in a row at which the loss is worse than its best.")
    tolerance: Annotated[float, Field(ge=0)] = Field(1.0, description="What counts as worse, in standard errors.")


class Loss(Section):
    """How tokens become a loss per task, and the losses of the tasks one loss."""

    reduction: Reduction = TokenReduction()
    denominator: Literal["step", "epoch"] | None = Field(
        None,
        description="What a task's loss in a step is divided by. `epoch`: its mean units per step, so that over the "
        "steps it counts its weight, however rare it is. `step`: its units in the step; where it is absent the others "
        "share its weight. Default: `epoch`; `step` with one task, proportional weights or weighted sampling.",
    )
    weighting: Weighting = Uniform()
    guard: Guard | None = Field(
        None, description="Stop training on tasks that overfit; the weighting must have a probe."
    )


class LearningRate(Section):
    """The learning rate of some of the parameters."""

    pattern: NonEmpty = Field(
        description="Regex that is searched in names such as `model.layers.0.mlp.up_proj.weight`."
    )
    multiplier: PositiveFloat = Field(description="Times the learning rate that the schedule gives.")


class Training(Section):
    """The optimisation. Names and meanings are those of transformers.TrainingArguments where it has them."""

    per_device_train_batch_size: PositiveInt = Field(
        8,
        description="Rows of one micro-batch. Memory of activations grows with them; at equal rows per step the "
        "result is the same.",
    )
    per_device_eval_batch_size: PositiveInt = Field(
        8, description="Rows of one validation micro-batch; changes speed and memory only."
    )
    gradient_accumulation_steps: PositiveInt = Field(
        1, description="Micro-batches per rank and optimizer step: larger steps without more memory for activations."
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        5e-5,
        description="Peak learning rate of AdamW. Usual are 1e-5 for all parameters, 1e-4 to 2e-4 for adapters, less "
        "for larger models.",
    )
    min_learning_rate: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Where the schedule ends; a tenth of learning_rate is usual."
    )
    learning_rates: list[LearningRate] = Field(
        [],
        description="Parameters with a learning rate of their own; of several patterns that match, the first counts. "
        'LoRA+ (Hayou et al., ICML 2024) is `[{"pattern": "lora_B", "multiplier": 16}]`.',
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "warmup_stable_decay"] = Field(
        "cosine", description="Shape after warm-up; `warmup_stable_decay` is constant until decay_steps before the end."
    )
    decay_steps: PositiveFloat = Field(
        0.1, description="Of `warmup_stable_decay`: a number of steps, or below 1 a fraction of all steps."
    )
    decay_type: Literal["1-sqrt", "linear", "cosine"] = Field(
        "1-sqrt", description="Shape of that decay; `1-sqrt` is that of Hägele et al. (NeurIPS 2024)."
    )
    warmup_steps: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Linear warm-up: a number of steps, or below 1 a fraction of all steps."
    )
    num_train_epochs: Annotated[float, Field(gt=0)] = Field(
        3.0, description="An epoch has as many rows as there are; which ones, data.sampling decides."
    )
    max_steps: Annotated[int, Field(ge=-1)] = Field(-1, description="If > 0, this many steps whatever the epochs.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="On matrices; never on biases and gains. 0.1 is usual where all parameters are trained."
    )
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"] = (
        Field(
            "adamw_torch_fused",
            description="Kind of AdamW. `8bit` holds the moments in 8 bits, 2 bytes per trained parameter and not 8 "
            "(bitsandbytes); `paged` lets them move to the host when GPU memory runs out.",
        )
    )
    adam_beta1: Fraction = Field(0.9, description="AdamW's decay of the mean gradient.")
    adam_beta2: Fraction = Field(
        0.999, description="AdamW's decay of the mean squared gradient; 0.95 is usual for large steps over long runs."
    )
    adam_epsilon: Annotated[float, Field(gt=0)] = Field(1e-8, description="AdamW's, in the denominator of the update.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Gradient norm is clipped to this; 0: off.")
    activation_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: about a third more time, for the memory of one "
        "layer's activations and the input of each. The first thing to try when a step does not fit.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the layers (torch.compile): minutes at the start, again for every new row length. "
        "For long runs with `pack` or `pad_to_max`.",
    )
    neftune_noise_alpha: PositiveFloat | None = Field(
        None,
        description="Noise on the embeddings (NEFTune; Jain et al., ICLR 2024), uniform within alpha / sqrt(L d); L is "
        "the length of the sample, not of the row; 5 is usual.",
    )
    full_determinism: bool = Field(
        False,
        description="On a GPU, compute with deterministic algorithms only: a run repeats bit for bit on the same "
        "machine and versions. Costs speed, often 5 to 20 %; what has no such algorithm fails. A CPU needs it not.",
    )
    max_nonfinite_steps: PositiveInt = Field(10, description="Skipped steps in a row after which the run stops.")
    eval_strategy: Literal["no", "steps", "epoch"] = Field("epoch", description="When tasks are validated.")
    eval_steps: PositiveInt | None = Field(None, description="With `steps`: every so many steps.")
    save_strategy: Literal["steps", "epoch"] = Field("steps", description="When checkpoints are written.")
    save_steps: PositiveInt = Field(
        500,
        description="With `steps`: every so many steps, which is what a crash costs at most. A checkpoint takes "
        "14 bytes per trained parameter in bfloat16.",
    )
    save_best: bool = Field(
        True,
        description="Also write one whenever validation finds a new best, which `export` takes.",
    )
    save_total_limit: PositiveInt | None = Field(
        None, description="Older checkpoints beyond this number are deleted; never the best or the last."
    )
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Stop after so many evaluations (or epochs) without a better mean of validation-loss ratios."
    )
    early_stopping_unit: Literal["evaluations", "epochs"] = Field("evaluations", description="Unit of the patience.")


class Profile(Section):
    """A trace of some steps through torch.profiler, in `profile/` of the run's folder, for Chrome or Perfetto."""

    steps: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = Field(
        description="First and last step that are recorded, e.g. `[11, 13]`; a step of a large model takes tens of MB."
    )
    ranks: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        [0], description="The ranks that record, each into a file of its own."
    )


class Logging(Section):
    """What is written while training. Changing it never changes the trajectory."""

    logging_steps: PositiveInt = Field(10, description="Steps between two lines of metrics.jsonl.")
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        ["tensorboard"],
        description="Beside metrics.jsonl. `wandb` and `trackio` are packages to install; one that fails while "
        "training is told and left out.",
    )
    project: NonEmpty = Field("mftcoder", description="Of the run on `wandb` and `trackio`.")
    run_name: NonEmpty | None = Field(None, description="What they call the run; default: the name of output_dir.")
    peak_tflops: PositiveFloat | None = Field(
        None,
        description="Peak rate of one GPU in 10^12 operations per second, for `mfu`; default: that of its data sheet "
        "in bfloat16.",
    )
    profile: Profile | None = Field(None, description="Record a trace of some steps; they are slower then.")


class Config(Section):
    """A whole training config."""

    output_dir: NonEmpty = Field(description="Folder of the run: checkpoints, metrics, resolved config.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(42, description="Of data order, dropout and new weights.")
    model: Model
    data: Data
    loss: Loss = Loss()
    training: Training = Training()
    deepspeed: NonEmpty | dict[str, Any] = Field(
        {"zero_optimization": {"stage": 0}}, description="DeepSpeed's own JSON: a path, or inline."
    )
    logging: Logging = Logging()

    @property
    def denominator(self) -> Literal["step", "epoch"]:
        """``loss.denominator``, or the one that fits the rest of the config."""
        if self.loss.denominator is not None:
            return self.loss.denominator
        in_step = len(self.data.tasks) == 1 or self.loss.weighting.type == "proportional"
        return "step" if in_step or self.data.sampling.type == "weighted" else "epoch"
