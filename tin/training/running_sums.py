"""Running sums of an epoch, which stay on the device until they are read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tin.ranks.distributed import World

NUM_SUMS = 4
"""Loss, top-1 hits, top-5 hits and clips."""


class RunningSums:
    """Sums over the clips of an epoch on this rank: loss, top-1 hits, top-5 hits, clips."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, logits ``(B, K)`` and labels ``(B,)`` or ``(B, K)``.

        A NaN or infinite loss is added like any other, so that the sum shows it. Labels of shape
        ``(B, K)`` (several classes per clip) add no hits.
        """
        clips = len(logits)
        hits = logits.new_zeros(2, dtype=torch.float64)
        if labels.ndim == 1:
            right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            hits = torch.stack([right[:, 0].sum(), right.any(1).sum()]).double()
        # new_full fills the number on the device; new_tensor would copy it and make the host wait.
        count = hits.new_full((1,), clips)
        self._sums += torch.cat([loss.double()[None] * clips, hits, count])

    def total(self, world: World, more: Sequence[float] = ()) -> list[float]:
        """Return the sums over all ranks, and behind them those of `more`; all ranks must call."""
        return world.sum([*self._sums.tolist(), *more])

    def clear(self) -> None:
        """Start a new epoch at zero."""
        self._sums.zero_()

    def restore(self, sums: list[float]) -> None:
        """Resume from sums that `total` returned; on rank 0 only, so that they count once."""
        self._sums.copy_(torch.tensor(sums, dtype=torch.float64))
