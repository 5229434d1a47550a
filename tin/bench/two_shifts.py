"""Interlacing in the original's order of work, which `tin bench` compares with."""

from collections.abc import Callable

import torch
from torch import Tensor

from tin.models.temporal import TemporalInterlace
from tin.op.interlace import interlace


def two_shifts(x: Tensor, offset: Tensor, weight: Tensor, channels: int, shift: Callable) -> Tensor:
    """Interlace in the original's order: zeros, two shifts by whole frames, mix, weigh, copy."""
    B, T, G = weight.shape
    size = channels // G
    clip = x[:, :channels].contiguous()
    whole = offset.detach().floor()
    part = (offset - whole).to(x.dtype).repeat_interleave(T, 0).repeat_interleave(size, 1)
    part = part[..., None, None]
    gain = weight.flatten(0, 1).to(x.dtype).repeat_interleave(size, 1)[..., None, None]
    y = torch.zeros_like(x)
    mixed = (1 - part) * shift(clip, whole, T) + part * shift(clip, whole + 1, T)
    y[:, :channels] = mixed * gain
    y[:, channels:] = x[:, channels:]
    return y


def gathered(clip: Tensor, frames: Tensor, T: int) -> Tensor:
    """Shift by whole frames in plain PyTorch."""
    C = clip.shape[1]
    source = torch.arange(T, device=clip.device)[None, :, None] - frames.long()[:, None]
    inside = (source >= 0) & (source < T)
    per_channel = (source.clamp(0, T - 1), inside.to(clip.dtype))
    index, kept = (
        v.repeat_interleave(C // frames.shape[1], 2)[..., None, None] for v in per_channel
    )
    clips = clip.unflatten(0, (-1, T))
    return (clips.gather(1, index.expand_as(clips)) * kept).flatten(0, 1)


def interlaced(clip: Tensor, frames: Tensor, T: int) -> Tensor:
    """Shift by whole frames with the operator, as fast as a kernel of the original may be."""
    weight = frames.new_ones(frames.shape[0], T, frames.shape[1])
    return interlace(clip, frames, weight, clip.shape[1])


class PlainInterlace(TemporalInterlace):
    """TIN's module as its authors have it without their kernel, which they say is 1.57 x slower."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x[:, : self.channels].mean((2, 3), dtype=self.weight_net.conv.weight.dtype)
        pooled = pooled.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        offset, weight = self.offset_net(pooled), self.weight_net(pooled)
        tensors = x, torch.cat([offset, -offset], 1), torch.cat([weight, weight], 2)
        return two_shifts(*tensors, self.channels, gathered)
