"""Section ``training``: the optimisation, validation and checkpoints."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema.base import Fraction, NonEmpty, PositiveFloat, PositiveInt, Section


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
    sequence_parallel_size: PositiveInt = Field(
        1,
        description="So many ranks share their rows, each with a part of every row's tokens and, in attention, of the "
        "heads (DeepSpeed's Ulysses): activations of rows too long for one GPU, at the price of an exchange in every "
        "layer. Keep them on one node. Needs rows of one sample each (`pad`, `pad_to_max`) or an attention that is "
        "told of samples' borders (`varlen`, `flash_attention_2`, `flash_attention_3`).",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the layers (torch.compile): minutes at the start, again for every new row length. "
        "For long runs with `pack` or `pad_to_max`; 1.3 to 1.5 times as fast with a 1B Llama on an H100.",
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
    agreement_steps: PositiveInt | None = Field(
        100,
        description="Every so many steps, and before every checkpoint, the ranks compare digests of weights (under "
        "ZeRO-3 of those that each keeps whole), optimizer step, task weights and place in the data; the run stops "
        "where they differ. Null: never.",
    )
    watchdog_seconds: PositiveFloat | None = Field(
        600.0,
        description="The run is ended, with the stacks of all ranks in `stacks/` and the missing rank named, when no "
        "rank has done anything for so long, or a rank is not heard of. More where `torch_compile` takes longer; "
        "null: never.",
    )
    eval_strategy: Literal["no", "steps", "epoch"] = Field("epoch", description="When tasks are validated.")
    eval_steps: PositiveInt | None = Field(None, description="With `steps`: every so many steps.")
    save_strategy: Literal["steps", "epoch"] = Field("steps", description="When checkpoints are written.")
    save_steps: PositiveInt = Field(
        500,
        description="With `steps`: every so many steps, which is what a crash costs at most. A checkpoint takes "
        "14 bytes per trained parameter in bfloat16. Training waits until it is whole and checksummed: `save_seconds`. "
        "(DeepSpeed's writer beside training, `checkpoint.writer.decoupled`, is refused: it hides one step at most, "
        "and if its process has died, checkpoints are left out without a word.)",
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
