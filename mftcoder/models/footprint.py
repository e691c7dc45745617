"""What a forward and backward pass keeps in memory, found on fake tensors: exact shapes, no data, nothing allocated."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mftcoder.models.adapter import TokenNLL, make_batch
from mftcoder.models.tensor_bytes import TensorBytes

GRADIENTS, LOGITS, ACTIVATIONS = "gradients", "logits", "activations"


class UnforeseeableError(Exception):
    """The model does what cannot be done on fake tensors."""


class Footprint(NamedTuple):
    """Bytes that are alive at the peak of one micro-batch, weights apart."""

    gradients: int
    logits: int  # with what the head needs to make its gradients
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def footprint(model: TokenNLL, *, num_rows: int, length: int, gradients_stay: bool) -> Footprint:
    """The peak of training ``model``, built on the meta device, on ``num_rows`` rows of ``length`` supervised tokens.

    Args:
        model: is turned into fake tensors and is of no other use afterwards.
        gradients_stay: keep gradients until the end of the backward pass, rather than hand each on as it is made.

    Raises UnforeseeableError if an operation of the model cannot be foretold.
    """
    counter, mode = TensorBytes(), FakeTensorMode()
    _make_fake(model, mode)
    model.train()
    with mode:
        counter.add([*model.parameters(), *model.buffers()], "weights")
        weights = counter.alive.total()
        batch = make_batch(torch.zeros(num_rows, length, dtype=torch.int64), torch.arange(length).repeat(num_rows, 1))
        coefficients = torch.zeros(len(batch.targets))

        def on_gradient(parameter: nn.Parameter) -> None:
            if gradients_stay and parameter.grad is not None:
                counter.add([parameter.grad], GRADIENTS)
            else:
                parameter.grad = None

        hooks = [p.register_post_accumulate_grad_hook(on_gradient) for p in model.parameters() if p.requires_grad]
        with contextlib.ExitStack() as stack:
            stack.enter_context(counter)
            stack.enter_context(counter.of_kind(ACTIVATIONS))
            stack.enter_context(_labelled(model.head, counter))
            try:
                _, loss, routers = model(batch, coefficients)
                (loss + routers).backward()
            except (RuntimeError, NotImplementedError) as error:  # an operation that has no fake form
                raise UnforeseeableError(" ".join(str(error).split())) from error
        for hook in hooks:
            hook.remove()
    peak: Counter[str] = counter.at_peak
    assert peak["weights"] == weights
    return Footprint(peak[GRADIENTS], peak[LOGITS], peak[ACTIVATIONS])


@contextlib.contextmanager
def _labelled(head: nn.Module, counter: TensorBytes) -> Iterator[None]:
    """Count what is made inside ``head`` as logits."""
    inside = contextlib.ExitStack()
    before = head.register_forward_pre_hook(lambda *_: inside.enter_context(counter.of_kind(LOGITS)) and None)
    after = head.register_forward_hook(lambda *_: inside.close())
    yield
    before.remove()
    after.remove()


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers on the meta device by fake ones on the CPU; shared ones stay shared."""
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = empty, tensor  # keeps the original, so that its id stays its own
        return made[id(tensor)][0]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]
