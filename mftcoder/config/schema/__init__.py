"""The training config: every section, key, type, range and default. ``config.load`` reads it from JSON.

One file per section. In ``training``, names and meanings follow ``transformers.TrainingArguments``. Counts of steps are
optimizer steps.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from mftcoder.config.schema.base import (
    ByTask,
    Fraction,
    NonEmpty,
    PositiveFloat,
    PositiveInt,
    Section,
    TaskName,
)
from mftcoder.config.schema.data import (
    BenchmarkFiles,
    Data,
    EqualSampling,
    Filters,
    Fim,
    GivenSampling,
    HeldOut,
    HubDataset,
    MarkersChat,
    MaxPasses,
    Packing,
    ProportionalSampling,
    Sampling,
    Task,
    TemperatureSampling,
    TemplateChat,
    WeightedSampling,
)
from mftcoder.config.schema.export import (
    Export,
)
from mftcoder.config.schema.logging import (
    Logging,
    Profile,
)
from mftcoder.config.schema.loss import (
    COBA_STEPS,
    PROBE_EVERY_STEPS,
    CoBa,
    Dwa,
    Famo,
    FamoValid,
    FocalSampleReduction,
    FocalTaskReduction,
    Given,
    GradNorm,
    GradNormValid,
    Guard,
    Lbtw,
    LbtwValid,
    Loss,
    Multiplicative,
    PluginWeighting,
    Probe,
    Proportional,
    Reduction,
    SampleReduction,
    SharedParameters,
    TokenReduction,
    Uncertainty,
    Uniform,
    Weighting,
)
from mftcoder.config.schema.model import (
    Lora,
    Model,
    Quantization,
    RopeScaling,
)
from mftcoder.config.schema.training import (
    LearningRate,
    Training,
)

__all__ = [
    "COBA_STEPS",
    "PROBE_EVERY_STEPS",
    "BenchmarkFiles",
    "ByTask",
    "CoBa",
    "Config",
    "Data",
    "Dwa",
    "EqualSampling",
    "Export",
    "Famo",
    "FamoValid",
    "Filters",
    "Fim",
    "FocalSampleReduction",
    "FocalTaskReduction",
    "Fraction",
    "Given",
    "GivenSampling",
    "GradNorm",
    "GradNormValid",
    "Guard",
    "HeldOut",
    "HubDataset",
    "Lbtw",
    "LbtwValid",
    "LearningRate",
    "Logging",
    "Lora",
    "Loss",
    "MarkersChat",
    "MaxPasses",
    "Model",
    "Multiplicative",
    "NonEmpty",
    "Packing",
    "PluginWeighting",
    "PositiveFloat",
    "PositiveInt",
    "Probe",
    "Profile",
    "Proportional",
    "ProportionalSampling",
    "Quantization",
    "Reduction",
    "Resume",
    "RopeScaling",
    "SampleReduction",
    "Sampling",
    "Section",
    "SharedParameters",
    "Task",
    "TaskName",
    "TemperatureSampling",
    "TemplateChat",
    "TokenReduction",
    "Training",
    "Uncertainty",
    "Uniform",
    "WeightedSampling",
    "Weighting",
]


class Resume(Section):
    """Begin with the weights of another run. To go on with a run itself, give `--resume` to `train`."""

    weights_only: Literal[True] = Field(
        description="Must be `true`: optimizer, learning rate, data order and weighting begin anew. On any number of "
        "ranks, at any ZeRO stage."
    )
    run: NonEmpty = Field(
        description="Its `output_dir`, or one of its checkpoints. It must have trained the same parameters; otherwise "
        "`export` it and put that folder into `model.path`."
    )
    checkpoint: NonEmpty = Field("best", description="Of that run: `best`, `last` or `step-N`.")


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
    resume: Resume | None = Field(None, description="Begin with the weights of another run.")
    plugins: list[NonEmpty] = Field(
        [],
        description="Python packages that add model families, weightings or record formats; they are imported before "
        "anything else happens.",
    )
    export: Export = Export()

    @property
    def denominator(self) -> Literal["step", "epoch"]:
        """``loss.denominator``, or the one that fits the rest of the config."""
        if self.loss.denominator is not None:
            return self.loss.denominator
        in_step = len(self.data.tasks) == 1 or self.loss.weighting.type == "proportional"
        return "step" if in_step or self.data.sampling.type == "weighted" else "epoch"
