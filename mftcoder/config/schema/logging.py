"""Section ``logging``: what is written while training."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema.base import NonEmpty, PositiveFloat, PositiveInt, Section


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
