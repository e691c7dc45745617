"""On a CPU: freed memory goes back to the system before a step takes the most.

glibc keeps freed blocks of less than 32 MiB, and the holes that activations leave between others do not fit the next.
"""

import ctypes
import ctypes.util
from typing import Any

from torch import Tensor, nn

from mftcoder.models.adapter import TokenNLL, layers_of
from mftcoder.models.quantization import whole_size

LARGE_BYTES = 2**27  # of a head's weight: in float32, 32,000 tokens stay below it up to a width of 1,048


def trim_at_peaks(model: TokenNLL) -> None:
    """Trim where a step of ``model`` is about to take the most: before the head, and in the backward pass when it is
    half through the layers, and before the embedding's gradient.

    It costs a small model about 3 % of a step, so that it is left out where the head's weight is not large. Does
    nothing without glibc.
    """
    malloc_trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if malloc_trim is None or whole_size(model.head.weight) * model.head.weight.itemsize <= LARGE_BYTES:
        return

    def trim(*_: Any) -> None:
        malloc_trim(0)

    def before_gradient(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        if hidden.requires_grad:
            hidden.register_hook(trim)

    model.head.register_forward_pre_hook(trim)
    model.causal.get_input_embeddings().register_forward_hook(before_gradient)
    if layers := layers_of(model.adapter.backbone(model.causal)):
        layers[len(layers) // 2].register_forward_hook(before_gradient)
