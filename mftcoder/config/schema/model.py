"""Section ``model``: the base model and how it is adapted."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema.base import Fraction, NonEmpty, PositiveInt, Section


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
    target_parameters: list[NonEmpty] | Literal["experts"] = Field(
        [],
        description="Parameters that get an adapter though they are no linear layer: `experts` are the fused experts "
        "of a mixture, which otherwise stay as they are; or ends of names. Needs dropout 0.",
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


class RopeScaling(Section):
    """Longer sequences than the model was made for, by other frequencies of its rotary embeddings (RoPE)."""

    type: Literal["yarn", "linear", "llama3", "default"] = Field(
        "yarn",
        description="`yarn` (Peng et al., 2023) needs the least training; `linear`: positions divided by the factor "
        "(Chen et al., 2023); `llama3`: as Llama 3.1; `default`: frequencies stay, for a `theta` of your own.",
    )
    factor: Annotated[float, Field(gt=1)] = Field(
        description="The longest sequence is this times what the model was made for."
    )
    theta: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Base of the frequencies; default: the model's own. CodeLlama went from 1e4 to 1e6."
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
    attention: Literal[
        "auto", "varlen", "flash_attention_2", "flash_attention_3", "flex_attention", "sdpa", "eager"
    ] = Field(
        "auto",
        description="What computes the attention of packed rows. `auto` takes the first that computes all that the "
        "model asks for: on a GPU `varlen` (torch's own FlashAttention, no package needed), FlashAttention 3 or 2 if "
        "installed, `flex_attention`, then `sdpa` and `eager` with a mask; on a CPU `varlen` (sdpa for each sample by "
        "itself), then those with a mask. Others are forced, or fail. The run says which it was, and why.",
    )
    rope_scaling: RopeScaling | None = Field(
        None,
        description="Take longer sequences than the model was made for. They must be trained on; the exported model "
        "keeps the scaling.",
    )
    new_tokens: list[NonEmpty] = Field(
        [],
        description="Special tokens that the tokenizer lacks, e.g. role markers or those of fill-in-the-middle. Each "
        "begins as the mean of the pieces that it was cut into; under LoRA just their embeddings are trained.",
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
