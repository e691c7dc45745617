"""A micro-batch: what the model sees and which positions count."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, of which S positions are supervised and belong to N samples.

    ``supervised`` holds the flat indices (into B·T) of the positions whose *next* token is a target. It is made on the
    host, so that selecting them never makes an accelerator wait; target and position lie in the same segment.
    """

    input_ids: Tensor  # [B, T] int64
    segment_ids: Tensor  # [B, T] int64; 1, 2, … within a row; 0 = padding
    position_ids: Tensor  # [B, T] int64; restart at each segment when samples are isolated
    task_ids: Tensor  # [B] int64; a row holds one task
    supervised: Tensor  # [S] int64
    targets: Tensor  # [S] int64
    sample_ids: Tensor  # [S] int64; which of the N samples each position belongs to
    sample_keys: Tensor  # [N] int64; the samples' ids in their shard (unique within task and split)
    task_spans: tuple[tuple[int, int], ...] = ()  # (task, positions) of each row's supervised ones; on the host
    borders: Tensor | None = None  # see ``segment_borders``; made on the host
    longest: int = 0

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``; copies do not block."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in values if isinstance(v, Tensor)}
        return replace(self, **moved)

    @property
    def segment_borders(self) -> tuple[Tensor, int]:
        """Where attention begins anew in B·T: [N + 1] int32, from 0 to B·T; and the length of the longest part."""
        if self.borders is not None:
            return self.borders, self.longest
        borders, longest = find_borders(self.position_ids.cpu().numpy())
        return borders.to(self.position_ids.device), longest

    @property
    def supervised_tasks(self) -> Tensor:
        """[S]: the task of each supervised position."""
        return self.task_ids[self.supervised // self.input_ids.shape[1]]


def find_borders(position_ids: NDArray[np.int64]) -> tuple[Tensor, int]:
    """``Batch.segment_borders`` from positions [B, T]; padding is a segment of its own."""
    borders = np.append(np.flatnonzero(position_ids == 0), position_ids.size).astype(np.int32)
    return torch.from_numpy(borders), int(np.diff(borders).max())
