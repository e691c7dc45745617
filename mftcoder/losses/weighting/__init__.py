"""Task weightings: one file per method, and the table of their names."""

from collections.abc import Callable

from mftcoder.config import schema
from mftcoder.losses.weighting.base import TaskLosses, TaskWeighting, Vector
from mftcoder.losses.weighting.coba import CoBa
from mftcoder.losses.weighting.given import Given
from mftcoder.losses.weighting.proportional import Proportional
from mftcoder.losses.weighting.uniform import Uniform
from mftcoder.tasks import TaskSet

__all__ = ["WEIGHTINGS", "TaskLosses", "TaskWeighting", "Vector", "build"]

# loss.weighting.type -> what makes it from the tasks and, as keywords, the other settings of its section
WEIGHTINGS: dict[str, Callable[..., TaskWeighting]] = {
    "uniform": Uniform,
    "proportional": Proportional,
    "given": Given,
    "coba": CoBa,
}


def build(config: schema.Weighting, tasks: TaskSet) -> TaskWeighting:
    """The weighting that ``loss.weighting`` asks for; MftcoderError if its settings do not fit ``tasks``.

    ``probe`` says what is observed and when, so it belongs to the training loop.
    """
    settings = config.model_dump(exclude={"type", "probe"})
    return WEIGHTINGS[config.type](tasks, **settings)
