"""Dropout whose masks the caller draws, so that they do not depend on the number of ranks."""

from torch import Tensor, nn


class KeyedDropout(nn.Dropout):
    """Dropout with masks that `keep` sets; without one it draws from torch's generator."""

    def __init__(self, p: float):
        super().__init__(p)
        self._kept: Tensor | None = None
        self._by_shape: dict[tuple[int, ...], Tensor] = {}

    def keep(self, mask: Tensor) -> None:
        """Set which features of each clip the next pass keeps in training.

        Args:
            mask: bool ``(B, N)``, where N is at least the number of features of a clip.
        """
        # A CUDA graph reads the memory of the mask that it was captured with, so masks of one shape
        # take turns in one tensor.
        self._kept = self._by_shape.setdefault(tuple(mask.shape), mask)
        self._kept.copy_(mask)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(B*T, F)``, in training with some set to zero and the others scaled."""
        if not self.training or not self.p or self._kept is None:
            return super().forward(x)
        B = len(self._kept)
        kept = self._kept[:, : x.numel() // B].reshape(x.shape)
        return x.where(kept, 0) / (1 - self.p)
