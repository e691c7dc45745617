"""Tasks: ordered names and their ids. A task is a named dataset; its id is its place in the config."""

from collections.abc import Iterator
from dataclasses import dataclass

from mftcoder.errors import MftcoderError


@dataclass(frozen=True)
class TaskSet:
    """The tasks of a run, in the order of the config. Every array over tasks ([K]) has this order."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise MftcoderError("data.tasks: at least one task is needed, found none.")
        for name in self.names:
            if self.names.count(name) > 1:
                raise MftcoderError(f'data.tasks: two tasks are named "{name}". Give each task a name of its own.')

    def id(self, name: str) -> int:
        """The id of the task called ``name``; MftcoderError if there is none."""
        if name not in self.names:
            raise MftcoderError(f'there is no task "{name}"; the tasks are {", ".join(self.names)}.')
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)
