"""Proof, before the first step, that the model is understood: our loss is its own, and packed samples are isolated.

Packed rows leak in silence in some families and settings of the library, so this runs on the very model, backend and
precision of the run. Every rank must take part: under ZeRO-3 a forward pass is a collective.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mftcoder.data.batch import Batch
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL, make_batch

LENGTH = 12  # tokens of each of the two samples


@torch.no_grad()
def check_model(
    model: TokenNLL, nll: Callable[[Batch], Tensor], *, device: torch.device, isolate_samples: bool
) -> None:
    """MftcoderError unless ``nll`` matches the model's own logits and, if asked for, samples of a row are isolated.

    Args:
        model: in eval mode.
        nll: a batch to its per-token NLL, through the engine.
        device: where batches go.
        isolate_samples: whether rows will be packed with isolation.
    """
    vocabulary = model.causal.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 2 * LENGTH), generator=generator).to(device)
    positions = torch.arange(2 * LENGTH, device=device).expand(2, -1)
    tolerance = 1e-4 if model.causal.dtype == torch.float32 else 0.1

    ours = nll(make_batch(ids, positions)).reshape(2, -1)
    logits = model.causal(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
    theirs = -logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    if not torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance):
        raise MftcoderError(
            f"model.path: the loss of {type(model.causal).__name__} differs from its own logits by "
            f"{(ours - theirs).abs().max():.3g} nats; its head is of a kind that is not supported."
        )
    if not isolate_samples:
        return
    packed = torch.arange(LENGTH, device=device).repeat(2).expand(2, -1)
    disturbed = torch.cat([ids[:, :LENGTH].flip(1), ids[:, LENGTH:]], dim=1)
    alone = nll(make_batch(ids[:, LENGTH:], packed[:, LENGTH:])).reshape(2, -1)
    second, again = (nll(make_batch(x, packed)).reshape(2, -1)[:, LENGTH:] for x in (ids, disturbed))
    leak = (second - again).abs().max()
    # The same shapes give the same rounding, so what another neighbour changes is a leak even where precision is low.
    if leak > 1e-3 or not torch.allclose(alone, second, atol=tolerance, rtol=tolerance):
        raise MftcoderError(
            f"data.packing.isolate_samples: packed samples of {type(model.causal).__name__} with "
            f'attention "{model.causal.config._attn_implementation}" see each other (their NLL is off by '
            f'{max(leak, (alone - second).abs().max()):.3g} nats). Use packing mode "pad", another model.attention, or '
            "isolate_samples false."
        )
