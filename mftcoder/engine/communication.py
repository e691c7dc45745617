"""How long a rank waits for what DeepSpeed sends: gradients and weights."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from mftcoder.distributed import Group

COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "all_to_all",
    "all_to_all_single",
)


def time_collectives(backend: Any, group: Group) -> None:
    """Have ``group.stopwatch`` run during the collectives of ``backend``, which is that of ``deepspeed.comm``.

    It runs while the host (on a GPU: the stream that a collective is called in) waits for one. What is computed
    meanwhile by others hides it: of one that is begun and waited for later, only the waiting counts.
    """
    for name in COLLECTIVES:
        collective = getattr(backend, name)
        setattr(backend, name, _timed(getattr(collective, "__wrapped__", collective), group))


def _timed(collective: Callable[..., Any], group: Group) -> Callable[..., Any]:
    @wraps(collective)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with group.stopwatch.running(group.device):
            work = collective(*args, **kwargs)
        return _Work(work, group) if hasattr(work, "wait") else work

    return timed


class _Work:
    """What a collective returns that was begun: the same, with its waiting timed."""

    def __init__(self, work: Any, group: Group) -> None:
        self._work, self._group = work, group

    def wait(self, *args: Any) -> Any:
        with self._group.stopwatch.running(self._group.device):
            return self._work.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
