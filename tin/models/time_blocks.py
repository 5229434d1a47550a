"""Blocks over time beside the temporal modules: non-local blocks, and pooling over time.

They take ``(B*T, C, H, W)``; the T frames of a clip are adjacent.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.train_schema import NonLocalKind


class NonLocal(nn.Module):
    """Add to each place of a clip a mean over all places, weighted by their similarity.

    ``y = x + norm(out(sum over j of w(i, j) g(x_j)))`` over places i, j in time and space. The
    weights are a softmax over j of ``theta(x_i) . phi(x_j)`` (embedded Gaussian) or of
    ``x_i . x_j`` (Gaussian), or the dot product ``theta(x_i) . phi(x_j)`` divided by the number of
    places j. The places j are sub-sampled by a maximum over 2x2 pixels. A new block returns x.

    Source: Wang et al., Non-local Neural Networks, CVPR 2018, arXiv:1711.07971, section 3.
    """

    def __init__(self, channels: int, num_segments: int, kind: NonLocalKind):
        super().__init__()
        self.num_segments = num_segments
        self.kind = kind
        inner = channels // 2
        if kind != "gaussian":
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        # (B, T*H*W, C) of the places that look, (B, places, C) of those that they look at.
        queries = self._places(x if self.kind == "gaussian" else self.theta(x))
        keys = self._places(F.max_pool2d(x if self.kind == "gaussian" else self.phi(x), 2))
        values = self._places(F.max_pool2d(self.g(x), 2))
        if self.kind == "dot_product":
            # (q k^T) v = q (k^T v): the second order needs no matrix of all pairs of places.
            found = queries @ (keys.transpose(1, 2) @ values) / keys.shape[1]
        else:
            found = (queries @ keys.transpose(1, 2)).softmax(2) @ values
        frames = found.unflatten(1, (self.num_segments, H, W)).flatten(0, 1).permute(0, 3, 1, 2)
        return self.norm(self.out(frames)) + x

    def _places(self, x: Tensor) -> Tensor:
        """Return ``(B, T*H*W, C)`` of ``(B*T, C, H, W)``."""
        return x.permute(0, 2, 3, 1).unflatten(0, (-1, self.num_segments)).flatten(1, 3)


class TemporalPool(nn.Module):
    """Halve the number of frames by a maximum over each frame and its two neighbors.

    Frame t of the result is the maximum of the frames 2t-1, 2t and 2t+1 of the clip.

    Source: the code of Lin et al., TSM, ICCV 2019, arXiv:1811.08383.
    """

    def __init__(self, num_segments: int):
        super().__init__()
        self.num_segments = num_segments
        if num_segments % 2:
            raise ValueError(
                f"model.temporal_pool halves the frames of a clip, but clip.num_segments is"
                f" {num_segments}; choose an even number"
            )

    def forward(self, x: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, self.num_segments))
        even = clip[:, ::2]
        odd = clip[:, 1::2]
        before = torch.cat([even[:, :1], odd[:, :-1]], dim=1)  # nothing lies before the first frame
        return torch.maximum(torch.maximum(even, odd), before).flatten(0, 1)
