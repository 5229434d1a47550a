"""Running sums of an epoch: loss and hits, kept on the device until somebody asks."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from pipeline.loader import ClipLoader
from tin.ranks.distributed import World


class Tally:
    """Sums over the clips of an epoch that this rank has seen: loss, top-1, top-5, clips."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: its mean loss, logits ``(B, K)`` and labels ``(B,)`` or ``(B, K)``.

        A loss that is no number is counted as it is; labels of several classes count no hits.
        """
        clips, hits = len(logits), logits.new_zeros(2, dtype=torch.float64)
        if labels.ndim == 1:
            right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            hits = torch.stack([right[:, 0].sum(), right.any(1).sum()]).double()
        self._sums += torch.cat([loss.double()[None] * clips, hits, hits.new_tensor([clips])])

    def total(self, world: World) -> list[float]:
        """Return the sums over all ranks; all ranks must ask together."""
        return world.sum(self._sums.tolist())

    def clear(self) -> None:
        """Begin a new epoch."""
        self._sums.zero_()

    def set(self, sums: list[float]) -> None:
        """Go on from sums that `total` gave (rank 0), or from zero."""
        self._sums.copy_(torch.tensor(sums, dtype=torch.float64))


class Interval:
    """Time, clips and data wait since some step, for one row of steps.csv or metrics.csv."""

    def __init__(self, loader: ClipLoader, sums: list[float]):
        self._loader, self._sums = loader, sums
        self._began, self._waited = time.monotonic(), loader.wait_s

    def row(self, sums: list[float]) -> dict[str, Any]:
        """Return mean loss, clips/s over all ranks, and this rank's share of time without data.

        Without a clip, as where a run goes on at the end of an epoch, nothing is known of speed.
        """
        seconds = max(time.monotonic() - self._began, 1e-9)
        loss, _, _, clips = (now - then for now, then in zip(sums, self._sums, strict=True))
        return {
            "loss": loss / max(clips, 1),
            "seconds": seconds,
            "clips_per_s": clips / seconds if clips else math.nan,
            "data_wait": (self._loader.wait_s - self._waited) / seconds if clips else math.nan,
        }
