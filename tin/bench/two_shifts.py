"""Interlacing in the order of work of the original code, for comparison in `tin bench`."""

from collections.abc import Callable

import torch
from torch import Tensor

from tin.models.temporal import TemporalInterlace
from tin.op.interlace import interlace

Shift = Callable[[Tensor, Tensor, int], Tensor]
"""Shifts the channels of ``(B*T, C, H, W)`` by whole frames ``(B, G)``; the last argument is T."""


def two_shifts(x: Tensor, offset: Tensor, weight: Tensor, channels: int, shift: Shift) -> Tensor:
    """Interlace as `tin.op.interlace.interlace` does, in the order of work of the original code.

    The original code fills the output with zeros, shifts by the whole frames below and above the
    offset, mixes both shifts, applies the weights, and copies the other channels.
    """
    B, T, G = weight.shape
    size = channels // G
    clip = x[:, :channels].contiguous()
    below = offset.detach().floor()

    # Repeat the fraction and the weight of a group over its frames and channels, (B*T, C, 1, 1).
    fraction = (offset - below).to(x.dtype).repeat_interleave(T, 0).repeat_interleave(size, 1)
    fraction = fraction[..., None, None]
    gain = weight.flatten(0, 1).to(x.dtype).repeat_interleave(size, 1)[..., None, None]

    y = torch.zeros_like(x)
    mixed = (1 - fraction) * shift(clip, below, T) + fraction * shift(clip, below + 1, T)
    y[:, :channels] = mixed * gain
    y[:, channels:] = x[:, channels:]
    return y


def gathered(clip: Tensor, frames: Tensor, T: int) -> Tensor:
    """Shift by whole frames in plain PyTorch."""
    # For each frame and group, find the frame that moves there, and whether it is in the clip.
    source = torch.arange(T, device=clip.device)[None, :, None] - frames.long()[:, None]
    inside = (source >= 0) & (source < T)

    # Repeat both over the channels of a group, (B, T, C, 1, 1).
    size = clip.shape[1] // frames.shape[1]
    index = source.clamp(0, T - 1).repeat_interleave(size, 2)[..., None, None]
    kept = inside.to(clip.dtype).repeat_interleave(size, 2)[..., None, None]

    clips = clip.unflatten(0, (-1, T))
    return (clips.gather(1, index.expand_as(clips)) * kept).flatten(0, 1)


def interlaced(clip: Tensor, frames: Tensor, T: int) -> Tensor:
    """Shift by whole frames with our operator, in place of the original's CUDA kernel."""
    weight = frames.new_ones(frames.shape[0], T, frames.shape[1])
    return interlace(clip, frames, weight, clip.shape[1])


class PlainInterlace(TemporalInterlace):
    """TIN's module as its authors run it without their kernel: 1.57 x slower, by their figures."""

    def forward(self, x: Tensor) -> Tensor:
        """Return interlaced features, as `TemporalInterlace` does."""
        pooled = x[:, : self.channels].mean((2, 3), dtype=self.weight_net.conv.weight.dtype)
        pooled = pooled.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        offset = self.offset_net(pooled)
        weight = self.weight_net(pooled)
        offsets = torch.cat([offset, -offset], 1)
        weights = torch.cat([weight, weight], 2)
        return two_shifts(x, offsets, weights, self.channels, gathered)
