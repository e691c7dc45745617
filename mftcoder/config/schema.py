"""The training config: every section, key, type, range and default. ``config.load`` reads it from JSON.

In ``training``, names and meanings follow ``transformers.TrainingArguments``. Counts of steps are optimizer steps.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are not coerced, the result cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Lora(Section):
    """Low-rank adapters (Hu et al., 2021) through peft."""

    rank: PositiveInt = Field(32, description="Rank of the two factors.")
    alpha: Annotated[float, Field(gt=0)] = Field(64, description="The adapter's output is scaled by alpha / rank.")
    dropout: Fraction = Field(0.05, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        "all-linear", description='Modules that get an adapter: "all-linear" (all but the head), a regex, or names.'
    )


class Model(Section):
    """The base model and how it is adapted."""

    path: str = Field(description="Folder or hub id of the base model, with its tokenizer.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Precision of weights and arithmetic.")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        "auto",
        description="Attention backend. `auto` takes FlashAttention where it is installed, else sdpa; others force it.",
    )
    lora: Lora | None = Field(None, description="Train adapters instead of all parameters.")
    trust_remote_code: bool = Field(False, description="Allow code from the model's folder to run. Leave it off.")


class TemplateChat(Section):
    """Conversations are rendered by the tokenizer's own chat template, or by a Jinja file."""

    type: Literal["template"] = "template"
    file: str | None = Field(None, description="A Jinja file that replaces the tokenizer's chat template.")


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
        "`pad_to_max`: one sample a row, padded to sequence_length.",
    )
    isolate_samples: bool = Field(
        True,
        description="Samples of one row do not see each other. `false` is MFTCoder's variant: earlier samples of the "
        "same task act as context.",
    )


class ProportionalSampling(Section):
    """Every row of every task exactly once per epoch."""

    type: Literal["proportional"] = "proportional"


class Task(Section):
    """One task: a name and its files."""

    name: TaskName = Field(description="Letters, digits, dot, dash, underscore.")
    path: str | list[str] = Field(description="File, folder (searched recursively) or glob, or several of them.")
    format: str = Field("auto", description="Record format; `auto` detects it from the first record and says so.")


class Data(Section):
    """Task files and how they become shards."""

    shards: str | None = Field(None, description="Folder of the packed shards; default: `shards` in output_dir.")
    sequence_length: Annotated[int, Field(gt=1)] = Field(2048, description="Tokens per row.")
    packing: Packing = Packing()
    validation_fraction: Fraction = Field(
        0.05, description="Share of each task's samples, or of the groups that its records name, that is held out."
    )
    over_long: Literal["truncate", "drop"] = Field(
        "truncate", description="What happens to a conversation longer than a row; plain text is split into rows."
    )
    chat: Annotated[TemplateChat | MarkersChat, Field(discriminator="type")] = TemplateChat()
    sampling: ProportionalSampling = ProportionalSampling()
    tasks: list[Task] = Field(min_length=1, description="The tasks, in order.")


class TokenReduction(Section):
    """A task's loss is the mean over its supervised tokens (MFTCoder Eq. 1)."""

    type: Literal["token"] = "token"


class SampleReduction(Section):
    """A task's loss is the mean over its samples of each sample's token mean."""

    type: Literal["sample"]


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


class Probe(Section):
    """The fixed validation rows that a weighting watches (shared by all validation-based weightings)."""

    every_steps: PositiveInt = Field(10, description="Optimizer steps between two looks.")
    tokens: PositiveInt | None = Field(
        None, description="Size of the probe; default 0.15 x every_steps x tokens per step, or all there are."
    )


class CoBa(Section):
    """Convergence Balancer (Gong et al., EMNLP 2024): weights from the slopes of validation losses."""

    type: Literal["coba"]
    window_steps: Annotated[int, Field(gt=1)] = Field(50, description="N: steps over which slopes are fitted.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(20, description="W: uniform weights before this step.")
    temperature: Annotated[float, Field(gt=0)] = Field(5.0, description="tau of the divergence factor.")
    divergence_factor: Literal["running", "common"] = Field(
        "running", description="Denominator of Eq. 7: the sum up to each slope, or one sum for all."
    )
    floor: Fraction = Field(0.0, description="f: every weight is at least f; (1 - K f) w + f.")
    probe: Probe = Probe()


Reduction = Annotated[TokenReduction | SampleReduction, Field(discriminator="type")]
Weighting = Annotated[Uniform | Proportional | Given | CoBa, Field(discriminator="type")]


class Loss(Section):
    """How tokens become a loss per task, and the losses of the tasks one loss."""

    reduction: Reduction = TokenReduction()
    weighting: Weighting = Uniform()


class Training(Section):
    """The optimisation. Names and meanings are those of transformers.TrainingArguments where it has them."""

    per_device_train_batch_size: PositiveInt = Field(8, description="Rows of one micro-batch.")
    per_device_eval_batch_size: PositiveInt = Field(8, description="Rows of one validation micro-batch.")
    gradient_accumulation_steps: PositiveInt = Field(1, description="Micro-batches per rank and optimizer step.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(5e-5, description="Peak learning rate of AdamW.")
    min_learning_rate: Annotated[float, Field(ge=0)] = Field(0.0, description="Where the schedule ends.")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field("cosine", description="Shape after warm-up.")
    warmup_steps: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Linear warm-up: a number of steps, or below 1 a fraction of all steps."
    )
    num_train_epochs: Annotated[float, Field(gt=0)] = Field(3.0, description="Passes over the data.")
    max_steps: Annotated[int, Field(ge=-1)] = Field(-1, description="If > 0, this many steps whatever the epochs.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="On matrices; never on biases and gains.")
    adam_beta1: Fraction = Field(0.9, description="AdamW.")
    adam_beta2: Fraction = Field(0.999, description="AdamW.")
    adam_epsilon: Annotated[float, Field(gt=0)] = Field(1e-8, description="AdamW.")
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(1.0, description="Gradient norm is clipped to this; 0: off.")
    activation_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    max_nonfinite_steps: PositiveInt = Field(10, description="Skipped steps in a row after which the run stops.")
    eval_strategy: Literal["no", "steps", "epoch"] = Field("epoch", description="When tasks are validated.")
    eval_steps: PositiveInt | None = Field(None, description="With `steps`: every so many steps.")
    save_strategy: Literal["steps", "epoch"] = Field("steps", description="When checkpoints are written.")
    save_steps: PositiveInt = Field(500, description="With `steps`: every so many steps.")
    save_best: bool = Field(True, description="Also write one whenever validation finds a new best.")
    save_total_limit: PositiveInt | None = Field(
        None, description="Older checkpoints beyond this number are deleted; never the best or the last."
    )
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Stop after so many evaluations (or epochs) without a better mean of validation-loss ratios."
    )
    early_stopping_unit: Literal["evaluations", "epochs"] = Field("evaluations", description="Unit of the patience.")


class Logging(Section):
    """What is written while training. Changing it never changes the trajectory."""

    logging_steps: PositiveInt = Field(10, description="Steps between two lines of metrics.jsonl.")
    report_to: list[Literal["tensorboard"]] = Field(["tensorboard"], description="Beside metrics.jsonl.")


class Config(Section):
    """A whole training config."""

    output_dir: str = Field(description="Folder of the run: checkpoints, metrics, resolved config.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(42, description="Of data order, dropout and new weights.")
    model: Model
    data: Data
    loss: Loss = Loss()
    training: Training = Training()
    deepspeed: str | dict[str, Any] = Field(
        {"zero_optimization": {"stage": 0}}, description="DeepSpeed's own JSON: a path, or inline."
    )
    logging: Logging = Logging()
