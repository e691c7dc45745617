"""Task weightings: one file per method, and the table of their names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting.base import TaskLosses, TaskWeighting, Vector
from mftcoder.losses.weighting.coba import CoBa
from mftcoder.losses.weighting.dwa import Dwa
from mftcoder.losses.weighting.famo import Famo, FamoValid
from mftcoder.losses.weighting.given import Given
from mftcoder.losses.weighting.gradnorm import GradNorm, GradNormValid
from mftcoder.losses.weighting.lbtw import Lbtw, LbtwValid
from mftcoder.losses.weighting.multiplicative import Multiplicative
from mftcoder.losses.weighting.proportional import Proportional
from mftcoder.losses.weighting.uncertainty import Uncertainty
from mftcoder.losses.weighting.uniform import Uniform
from mftcoder.tasks import TaskSet

__all__ = ["WEIGHTINGS", "TaskLosses", "TaskWeighting", "Vector", "build", "make_weighting", "parse"]

# loss.weighting.type -> what makes it from the tasks and, as keywords, the other settings of its section
WEIGHTINGS: dict[str, Callable[..., TaskWeighting]] = {
    "uniform": Uniform,
    "proportional": Proportional,
    "given": Given,
    "famo": Famo,
    "famo_valid": FamoValid,
    "lbtw": Lbtw,
    "lbtw_valid": LbtwValid,
    "dwa": Dwa,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "gradnorm_valid": GradNormValid,
    "coba": CoBa,
    "multiplicative": Multiplicative,
}


def build(
    config: schema.Weighting, tasks: TaskSet, *, num_mini_batches: int = 1, every_steps: int = 1
) -> TaskWeighting:
    """The weighting that ``loss.weighting`` asks for; MftcoderError if its settings do not fit ``tasks``.

    ``probe`` and ``shared`` say what is observed, so they belong to the training loop. ``num_mini_batches`` is M, the
    global mini-batches of the probe, which CoBa's preset "paper" is measured in, and ``every_steps`` lie between two
    looks.
    """
    if isinstance(config, schema.PluginWeighting):
        return _of_plugin(config, tasks)
    settings = config.model_dump(exclude={"type", "probe", "shared"})
    if isinstance(config, schema.CoBa):
        settings |= {"num_mini_batches": num_mini_batches, "every_steps": every_steps}
    return WEIGHTINGS[config.type](tasks, **settings)


def _of_plugin(config: schema.PluginWeighting, tasks: TaskSet) -> TaskWeighting:
    if config.name not in WEIGHTINGS:
        raise MftcoderError(
            f'loss.weighting.name: no plugin has added a weighting "{config.name}"; there are {", ".join(WEIGHTINGS)}.'
        )
    try:
        return WEIGHTINGS[config.name](tasks, **config.settings)
    except TypeError as error:
        raise MftcoderError(f"loss.weighting.settings: do not fit {config.name}: {error}.") from error


def parse(settings: Mapping[str, Any]) -> schema.Weighting:
    """``settings`` as a section ``loss.weighting``; MftcoderError if they are none."""
    try:
        return TypeAdapter(schema.Weighting).validate_python(dict(settings))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise MftcoderError(f"weighting: {'; '.join(problems)}.") from None


def make_weighting(settings: Mapping[str, Any], tasks: Sequence[str]) -> TaskWeighting:
    """A weighting for a loop of one's own, from what a config would hold and the names of the tasks.

    Raises:
        MftcoderError: the settings are wrong or do not fit the tasks.
    """
    return build(parse(settings), TaskSet(tuple(tasks)))
