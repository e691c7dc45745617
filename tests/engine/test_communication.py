"""What DeepSpeed sends is timed: while it is waited for, and by the stopwatch of the run that is on."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mftcoder.distributed import Group
from mftcoder.engine.communication import COLLECTIVES, time_collectives


class Watch:
    """In place of a stopwatch: whether it runs, and how often it has run."""

    def __init__(self) -> None:
        self.runs, self.times = False, 0

    @contextmanager
    def running(self, device: object) -> Iterator[None]:
        self.runs, self.times = True, self.times + 1
        yield
        self.runs = False


class Work:
    name = "of a collective"

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def wait(self) -> bool:
        return self.watch.runs


class Backend:
    """Of ``deepspeed.comm``: a collective gives the numbers of what was sent and whether the watch runs; or work."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __getattr__(self, name: str):
        def collective(value: int, async_op: bool = False) -> Work | tuple[int, bool]:
            return Work(self.watch) if async_op else (value, self.watch.runs)

        return collective


def group_with(watch: Watch) -> Group:
    return Group(size=2, stopwatch=watch)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_timed_and_does_what_it_did(name):
    watch = Watch()
    backend = Backend(watch)
    time_collectives(backend, group_with(watch))
    assert getattr(backend, name)(7) == (7, True)
    assert not watch.runs
    assert watch.times == 1


def test_of_what_is_waited_for_later_the_waiting_is_timed():
    watch = Watch()
    backend = Backend(watch)
    time_collectives(backend, group_with(watch))
    work = backend.all_gather_into_tensor(7, async_op=True)
    assert not watch.runs
    assert work.name == "of a collective"
    assert work.wait() is True
    assert not watch.runs


def test_the_next_run_of_a_process_has_it_to_itself():
    before, watch = Watch(), Watch()
    backend = Backend(watch)
    time_collectives(backend, group_with(before))
    time_collectives(backend, group_with(watch))
    backend.all_reduce(7)
    assert (before.times, watch.times) == (0, 1)


def test_deepspeeds_backend_has_them():
    from deepspeed.comm.torch import TorchBackend

    assert all(callable(getattr(TorchBackend, name)) for name in COLLECTIVES)
