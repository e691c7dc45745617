"""DeepSpeed's Ulysses: ranks that share their rows have a part of every row each, and in attention of the heads.

Outside attention a token knows only itself, so a rank computes its part of the rows alone:

    rank 0   tokens 0 … T/2, all heads   ─┐ exchange ┌─  all tokens, the first heads   ─┐ exchange ┌─  …
    rank 1   tokens T/2 … T, all heads   ─┘          └─  all tokens, the other heads   ─┘          └─  …

DeepSpeed drops the mask and would divide gradients by the ranks over the parts. Here attention needs no mask (whole
rows of one sample, or segments' borders), and DeepSpeed is told of plain data parallelism: all that the loss needs to
know is gathered, so every rank of a row sees the NLL of the whole row and differentiates that of its part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mftcoder.data.batch import Batch
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL
from mftcoder.models.attention import by_segments

ULYSSES = "mftcoder_ulysses"  # the library makes no mask for a name that it does not know

Forward = Callable[[Batch, Tensor | None], tuple[Tensor, Tensor, Tensor]]


class SequenceParallel:
    """Cuts batches, and makes the attention of ``model`` exchange parts of rows for heads while it is ``exchanging``.

    Consecutive ranks share rows, so that the exchange stays within a node.
    """

    def __init__(self, model: TokenNLL, group: Group) -> None:
        causal = model.causal
        self._part, self._parts = group.rank % group.ranks_per_row, group.ranks_per_row
        self._ranks, _ = dist.new_subgroups(self._parts)
        self._as_one_row = by_segments(causal)
        self._exchanging = False
        self._modules: dict[tuple[int, ...], UlyssesSPAttentionHF] = {}
        name = causal.config._attn_implementation
        self._attend = ALL_ATTENTION_FUNCTIONS[name]
        # Backends that are told of borders are known by their names.
        name = name if self._as_one_row else ULYSSES
        AttentionInterface.register(name, self._attention)
        causal.set_attn_implementation(name)

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Inside, the model is given parts of rows; outside, whole ones."""
        self._exchanging = True
        try:
            yield
        finally:
            self._exchanging = False

    def __call__(self, forward: Forward, batch: Batch, coefficients: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What ``forward`` gives for ``batch``: the NLL [S] of all its positions, the loss of this rank's part alone.

        Gradients at the NLL, and at the loss, reach what this rank computed; summed over the ranks they are whole.
        """
        part, mine = part_of(batch, self._part, self._parts, as_one_row=self._as_one_row)
        with self.exchanging():
            nll, loss, routers = forward(part, None if coefficients is None else coefficients[mine])
        everywhere = nll.new_zeros(len(batch.targets)).index_copy_(0, mine, nll.detach())
        dist.all_reduce(everywhere, group=self._ranks)
        return (everywhere.index_copy(0, mine, nll) if nll.requires_grad else everywhere), loss, routers

    def _attention(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
    ) -> Any:
        """In the library's form: query [B, H, T, D] to [B, T, H, D], T of a part."""
        if not self._exchanging:
            return self._attend(module, query, key, value, attention_mask, **others)
        if "position_ids" not in others or key.shape != value.shape:
            raise MftcoderError(
                f"training.sequence_parallel_size: {type(module).__name__} is of a kind that DeepSpeed's Ulysses does "
                "not know. Set it to 1."
            )
        groups = getattr(module, "num_key_value_groups", None)
        attended = self._exchange(query, key)(module, query, key, value, None, **others)
        if groups is not None:
            module.num_key_value_groups = groups  # DeepSpeed leaves those of a rank's heads
        return attended

    def _exchange(self, query: Tensor, key: Tensor) -> UlyssesSPAttentionHF:
        """DeepSpeed's module for these shapes; it holds all but T fixed."""
        shape = (len(query), query.shape[1], query.shape[3], key.shape[1])
        if shape not in self._modules:
            rows, heads, head_size, key_heads = shape
            self._modules[shape] = UlyssesSPAttentionHF(
                self._attend,
                batch_size=rows,
                attn_head_count=heads,
                attn_head_size=head_size,
                kv_head_count=key_heads,
                num_hidden_layers=1,  # for debugging only
                process_group=self._ranks,
                seq_length_is_variable=True,
            )
        return self._modules[shape]


def part_of(batch: Batch, part: int, parts: int, *, as_one_row: bool) -> tuple[Batch, Tensor]:
    """Part number ``part`` of ``parts`` of the rows of ``batch``, as the model needs it to compute their NLL.

    Rows are cut along T, or joined to one of B·T tokens and that is cut; what cannot be divided is padded. Borders of
    segments stay those of the whole.

    Returns:
        The part, and which of the S supervised positions lie in it.
    """
    num_rows, width = (1, batch.input_ids.numel()) if as_one_row else batch.input_ids.shape
    length = -(-width // parts)
    missing = parts * length - width

    def cut(values: Tensor) -> Tensor:
        return pad(values.reshape(num_rows, width), (0, missing))[:, part * length : (part + 1) * length]

    row, column = batch.supervised // width, batch.supervised % width
    mine = (column // length == part).nonzero().squeeze(1)
    borders, longest = batch.segment_borders
    if missing:
        borders, longest = torch.cat([borders, borders[-1:] + missing]), max(longest, missing)
    cut_batch = replace(
        batch,
        input_ids=cut(batch.input_ids),
        segment_ids=cut(batch.segment_ids),
        position_ids=cut(batch.position_ids),
        supervised=row[mine] * length + column[mine] - part * length,
        targets=batch.targets[mine],
        sample_ids=batch.sample_ids[mine],
        task_spans=(),
        borders=borders,
        longest=longest,
    )
    return cut_batch, mine
