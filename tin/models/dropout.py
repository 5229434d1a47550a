"""Dropout whose masks the caller draws, so that they do not depend on the number of ranks."""

from torch import Tensor, nn


class KeyedDropout(nn.Dropout):
    """Dropout that uses the given mask `kept`; without one it draws from torch's generator."""

    kept: Tensor | None = None
    """Which features of each clip are kept in training: bool ``(B, N)``, where N is at least the
    number of features of a clip."""

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(B*T, F)``, in training with some set to zero and the others scaled."""
        if not self.training or not self.p or self.kept is None:
            return super().forward(x)
        B = len(self.kept)
        kept = self.kept[:, : x.numel() // B].reshape(x.shape)
        return x.where(kept, 0) / (1 - self.p)
