"""Section ``loss``: reductions, weightings and the overfit guard."""

from typing import Annotated, Any, Literal

from pydantic import Field

from mftcoder.config.schema.base import ByTask, Fraction, NonEmpty, PositiveFloat, PositiveInt, Section


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


class PluginWeighting(Section):
    """A weighting that a package of `plugins` added to the table `WEIGHTINGS`."""

    type: Literal["plugin"]
    name: NonEmpty = Field(description="Its name in the table.")
    settings: dict[str, Any] = Field({}, description="What it is made with beside the tasks, as keywords.")
    probe: Probe | None = Field(None, description="Needed if it observes validation losses.")


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
    | Multiplicative
    | PluginWeighting,
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
