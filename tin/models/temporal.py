"""Temporal modules, which stand in front of the first convolution of a residual block.

Each maps ``(B*T, C, H, W)`` to the same shape; a clip's T frames follow one another.
"""

import importlib
import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from configs.load import ConfigError
from tin.op.interlace import interlace

MAX_OFFSET = 2.0
INITIAL_OFFSET = 0.5


def temporal_module(name: str, channels: int, num_segments: int, shift_div: int) -> nn.Module:
    """Return the temporal module of one block.

    Args:
        name: none, shift, interlace, conv, or ``package.module:Class`` of a user's own, which
            is called with ``(channels, num_segments)``.
        channels: C of the block's input.
        num_segments: T, frames of a clip.
        shift_div: one of so many channels is shifted, interlaced or convolved.

    Raises:
        ConfigError: there is no such module.
    """
    if name == "none":
        return nn.Identity()
    if name == "shift":
        return TemporalShift(channels, num_segments, shift_div)
    if name == "interlace":
        return TemporalInterlace(channels, num_segments, shift_div)
    if name == "conv":
        return TemporalConv(channels, num_segments, shift_div)
    return _own(name)(channels, num_segments)


class TemporalInterlace(nn.Module):
    """Interlace a share of the channels by offsets and weights learned from the clip itself.

    The first ``F = channels // shift_div`` channels form four groups with the offsets
    ``(b0, b1, -b0, -b1)`` and the weights ``(w0, w1, w0, w1)``; the others pass.
    With ``record`` set, `offset` ``(B, 2)`` and `weight` ``(B, T, 2)`` of the last forward are
    kept, detached, on their device.

    Raises:
        ValueError: four groups do not divide F.

    Source: Shao et al., AAAI 2020, arXiv:2001.06499, section 3.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 4):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels or self.channels % 4:
            raise ValueError(
                f"{channels} channels over a shift_div of {shift_div} leave {self.channels} to"
                " interlace, which four groups do not divide; choose another model.shift_div"
            )
        self.offset_net = OffsetNet(self.channels, num_segments)
        self.weight_net = WeightNet(self.channels)
        self.record = False
        self.offset: Tensor | None = None
        self.weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x, pooled = _Pool.apply(x, self.channels, self.weight_net.conv.weight.dtype)
        pooled = pooled.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):  # a bfloat16 offset is too coarse
            offset, weight = self.offset_net(pooled), self.weight_net(pooled)
        if self.record:
            self.offset, self.weight = offset.detach(), weight.detach()
        offset = torch.cat([offset, -offset], dim=1)
        return interlace(x, offset, torch.cat([weight, weight], dim=2), self.channels)


class _Pool(torch.autograd.Function):
    """Return x and the spatial mean of its leading channels.

    The gradient of the mean is added to that of x in place: a slice and a mean would write a
    gradient of x's whole size each, and cost more than the interlacing. That is safe as long as
    `interlace`, which alone uses the x returned, gives it a gradient of its own.
    """

    @staticmethod
    def forward(ctx, x: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        _, _, H, W = x.shape
        ctx.channels, ctx.area = channels, H * W
        return x.view_as(x), x[:, :channels].mean((2, 3), dtype=dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_pooled: Tensor) -> tuple[Tensor, None, None]:
        grad[:, : ctx.channels].add_((grad_pooled / ctx.area)[..., None, None])
        return grad, None, None


class OffsetNet(nn.Module):
    """Map pooled features ``(B, F, T)`` to two offsets a clip, ``(B, 2)``, in frames."""

    def __init__(self, channels: int, num_segments: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 1, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(num_segments, num_segments)
        self.fc2 = nn.Linear(num_segments, 2)
        probability = 0.5 + INITIAL_OFFSET / (2 * MAX_OFFSET)  # training starts half a frame apart
        nn.init.constant_(self.fc2.bias, math.log(probability / (1 - probability)))

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = self.fc1(self.conv(pooled).flatten(1)).relu()
        return 2 * MAX_OFFSET * (self.fc2(hidden).sigmoid() - 0.5)


class WeightNet(nn.Module):
    """Map pooled features ``(B, F, T)`` to two gains a frame, ``(B, T, 2)``, between 0 and 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 2, kernel_size=3, padding=1)
        nn.init.zeros_(self.conv.bias)  # a gain of one

    def forward(self, pooled: Tensor) -> Tensor:
        return 2 * self.conv(pooled).sigmoid().transpose(1, 2)


class TemporalShift(nn.Module):
    """Shift one of `shift_div` channels a frame earlier and as many a frame later.

    Source: Lin et al., TSM: Temporal Shift Module, ICCV 2019, arXiv:1811.08383, section 3.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 8):
        super().__init__()
        self.channels = 2 * (channels // shift_div)
        if not 0 < self.channels <= channels:
            raise ValueError(f"a shift_div of {shift_div} does not fit {channels} channels")
        # constants, not part of a checkpoint
        self.register_buffer("offset", torch.tensor([[-1.0, 1.0]]), persistent=False)
        self.register_buffer("weight", torch.ones(1, num_segments, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0] // self.weight.shape[1]
        return interlace(x, self.offset.expand(B, -1), self.weight.expand(B, -1, -1), self.channels)


class TemporalConv(nn.Module):
    """Convolve a share of the channels densely over time: what interlacing is compared with.

    ``y[b, t] = sum over s = -2..2 of W[s] x[b, t+s]`` for the first ``F = channels // shift_div``
    channels, with a full ``F x F`` matrix at each of five frames and zeros outside the clip; the
    others pass. Five frames are what offsets between -2 and 2 reach, so that interlacing by fixed
    offsets and weights is the special case of diagonal matrices with two entries next to one
    another. Training starts where interlacing starts, the first half of the channels half a frame
    later and the second half a frame earlier: near the identity, motion is learned much later.

    Our definition of the r-TCN of Shao et al., AAAI 2020, which publish none.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 4):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels:
            raise ValueError(f"a shift_div of {shift_div} does not fit {channels} channels")
        reach = int(MAX_OFFSET)
        self.conv = nn.Conv2d(
            self.channels, self.channels, (2 * reach + 1, 1), padding=(reach, 0), bias=False
        )
        weight = torch.zeros(self.channels, self.channels, 2 * reach + 1)
        channel = torch.arange(self.channels)
        later = channel < self.channels / 2
        weight[channel, channel, reach] = 1 - INITIAL_OFFSET
        weight[channel, channel, torch.where(later, reach - 1, reach + 1)] = INITIAL_OFFSET
        with torch.no_grad():
            self.conv.weight.copy_(weight[..., None])

    def forward(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        clip = x[:, : self.channels].unflatten(0, (-1, self.num_segments))
        mixed = self.conv(clip.transpose(1, 2).flatten(3)).unflatten(3, (H, W))
        return torch.cat([mixed.transpose(1, 2).flatten(0, 1), x[:, self.channels :]], dim=1)


def _own(name: str) -> type:
    module_name, found, class_name = name.partition(":")
    if not found:
        raise ConfigError(
            f"model.temporal {name}: expected none, shift, interlace, conv or package.module:Class"
        )
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.temporal {name}: {error}; the package must be importable where training runs"
        ) from None
