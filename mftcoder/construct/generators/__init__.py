"""Ways of asking a model for samples. ``GENERATORS`` is the table: type in the config -> what makes the samples."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from mftcoder.construct.generators.evolve import evolve
from mftcoder.construct.generators.self_instruct import self_instruct
from mftcoder.construct.generators.single_turn import single_turn
from mftcoder.construct.generators.transform import transform
from mftcoder.construct.generators.two_agents import two_agents
from mftcoder.construct.generators.work import Work
from mftcoder.construct.samples import Sample

GENERATORS: dict[str, Callable[[Any, Work], AsyncIterator[Sample]]] = {
    "self_instruct": self_instruct,
    "two_agents": two_agents,
    "single_turn": single_turn,
    "evolve": evolve,
    "transform": transform,
}
