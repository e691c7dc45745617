"""How many bytes of tensors are alive, counted at every operation: real tensors, or fake ones that hold no data."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorBytes(TorchDispatchMode):
    """Inside ``with``, counts the bytes of every storage that an operation makes, until it is freed.

    Views, in-place results and tensors on the meta device cost nothing. What was there before counts once ``add`` was
    told of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: Counter[str] = Counter()  # kind -> bytes
        self.at_peak: Counter[str] = Counter()  # ``alive`` when its total was largest
        self._kind = "other"
        self._storages: dict[int, tuple[weakref.ref, str]] = {}

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return self.at_peak.total()

    def restart(self) -> None:
        """Forget the peak so far."""
        self.at_peak = self.alive.copy()

    @contextmanager
    def of_kind(self, kind: str) -> Iterator[None]:
        """Count what is made inside as ``kind``."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def add(self, tensors: Sequence[Tensor], kind: str) -> None:
        """Count the storages of ``tensors`` as ``kind``, whatever they counted as before."""
        for tensor in tensors:
            self._count(tensor, kind, anew=True)

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._count(value, self._kind)
        return result

    def _count(self, tensor: Tensor, kind: str, *, anew: bool = False) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            if anew:
                reference, before = self._storages[key]
                self._storages[key] = reference, kind
                self.alive[before] -= size
                self.alive[kind] += size
            return

        def freed(_: weakref.ref) -> None:
            self.alive[self._storages.pop(key)[1]] -= size

        self._storages[key] = weakref.ref(storage, freed), kind
        self.alive[kind] += size
        if self.alive.total() > self.peak:
            self.at_peak = self.alive.copy()
