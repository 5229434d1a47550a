"""Temporal modules, each placed before the first convolution of a residual block.

A module maps ``(B*T, C, H, W)`` to the same shape; the T frames of a clip are adjacent.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from configs.load import ConfigError
from tin.op.interlace import interlace, is_compiled, is_exporting
from tin.op.nets import interlace_nets

MAX_OFFSET = 2.0  # frames
INITIAL_OFFSET = 0.5  # frames


def temporal_module(name: str, channels: int, num_segments: int, shift_div: int) -> nn.Module:
    """Return the temporal module of one block.

    Args:
        name: none, shift, interlace, conv, or ``package.module:Class`` for a class of the user,
            which is called with ``(channels, num_segments)``.
        channels: C of the block's input.
        num_segments: T, the frames of a clip.
        shift_div: divides the channels; 1/shift_div of them is interlaced or convolved, or shifted
            in each direction.

    Raises:
        ConfigError: `name` is unknown, or the class cannot be imported.
        ValueError: the module does not fit the channels.
    """
    if name == "none":
        return nn.Identity()
    if name == "shift":
        return TemporalShift(channels, num_segments, shift_div)
    if name == "interlace":
        return TemporalInterlace(channels, num_segments, shift_div)
    if name == "conv":
        return TemporalConv(channels, num_segments, shift_div)
    return _imported_class(name)(channels, num_segments)


class TemporalInterlace(nn.Module):
    """Shift groups of channels along time by offsets that two small nets compute from the clip.

    The first ``F = channels // shift_div`` channels form four groups with the offsets
    ``(b0, b1, -b0, -b1)`` and the weights ``(w0, w1, w0, w1)``; the other channels are copied.
    While ``record`` is set, the module keeps `offset` ``(B, 2)`` and `weight` ``(B, T, 2)`` of
    the last forward pass, detached, on their device.

    On CUDA one kernel computes both nets, and on a CPU their modules do: there the kernel would
    change the last bits, and runs of earlier versions would not resume bit-equally.

    Raises:
        ValueError: F is not divisible by four.

    Source: Shao et al., AAAI 2020, arXiv:2001.06499, section 3.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 4):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels or self.channels % 4:
            raise ValueError(
                f"model.shift_div {shift_div} selects {self.channels} of {channels} channels to"
                " interlace, which is not a positive multiple of the four groups; choose another"
                " model.shift_div"
            )
        self.offset_net = OffsetNet(self.channels, num_segments)
        self.weight_net = WeightNet(self.channels)
        self.record = False
        self.offset: Tensor | None = None
        self.weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        # Average the channels over space, (B*T, F).
        x, pooled = _pool(x, self.channels, self.weight_net.conv.weight.dtype)
        offset, weight = self._shifts(pooled)
        if self.record:
            self.offset = offset[:, :2].detach()
            self.weight = weight[..., :2].detach()
        return interlace(x, offset, weight, self.channels)

    def _shifts(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offsets ``(B, 4)`` and the weights ``(B, T, 4)`` of the four groups."""
        if _has_kernel(pooled):
            offset = self.offset_net
            layers = (offset.conv, offset.fc1, offset.fc2, self.weight_net.conv)
            return interlace_nets(pooled, [p for layer in layers for p in layer.parameters()])
        # The nets see time last, (B, F, T). Autocast is off because an offset in bfloat16 would be
        # too coarse.
        pooled = pooled.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        with torch.autocast(pooled.device.type, enabled=False):
            offset = self.offset_net(pooled)
            weight = self.weight_net(pooled)
        # The third and the fourth group mirror the offsets of the first two.
        return torch.cat([offset, -offset], dim=1), torch.cat([weight, weight], dim=2)


def _has_kernel(pooled: Tensor) -> bool:
    """Return whether one kernel computes both nets."""
    if pooled.device.type != "cuda" or is_exporting():
        return False
    return pooled.dtype in (torch.float32, torch.float64) and is_compiled("cuda")


def _pool(x: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x and the spatial mean of its leading channels, ``(B*T, channels)`` of `dtype`.

    Only `interlace` may use the returned x in a computation that is differentiated.
    """
    if is_exporting():
        return x, x[:, :channels].mean((2, 3), dtype=dtype)  # exported files have no backward pass
    return _Pool.apply(x, channels, dtype)


class _Pool(torch.autograd.Function):
    """Return x and the spatial mean of its leading channels.

    The backward pass adds the gradient of the mean to the gradient of x in place. With autograd's
    own slice and mean, each of the two would write a gradient of the full size of x, which takes
    longer than the interlacing. Adding in place is safe because only `interlace` uses the
    returned x, and `interlace` allocates the gradient that arrives here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        _, _, H, W = x.shape
        ctx.channels = channels
        ctx.area = H * W
        return x.view_as(x), x[:, :channels].mean((2, 3), dtype=dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_pooled: Tensor) -> tuple[Tensor, None, None]:
        grad[:, : ctx.channels].add_((grad_pooled / ctx.area)[..., None, None])
        return grad, None, None


class OffsetNet(nn.Module):
    """Map pooled features ``(B, F, T)`` to two offsets per clip, ``(B, 2)``, in frames."""

    def __init__(self, channels: int, num_segments: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 1, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(num_segments, num_segments)
        self.fc2 = nn.Linear(num_segments, 2)
        # Start at INITIAL_OFFSET: solve forward's formula for the argument of the sigmoid.
        probability = 0.5 + INITIAL_OFFSET / (2 * MAX_OFFSET)
        nn.init.constant_(self.fc2.bias, math.log(probability / (1 - probability)))

    def forward(self, pooled: Tensor) -> Tensor:
        hidden = self.fc1(self.conv(pooled).flatten(1)).relu()
        return 2 * MAX_OFFSET * (self.fc2(hidden).sigmoid() - 0.5)


class WeightNet(nn.Module):
    """Map pooled features ``(B, F, T)`` to two weights per frame, ``(B, T, 2)``, from 0 to 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, 2, kernel_size=3, padding=1)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)  # which makes a weight of one

    def forward(self, pooled: Tensor) -> Tensor:
        return 2 * self.conv(pooled).sigmoid().transpose(1, 2)


class TemporalShift(nn.Module):
    """Shift 1/shift_div of the channels one frame earlier, and as many one frame later.

    Source: Lin et al., TSM: Temporal Shift Module, ICCV 2019, arXiv:1811.08383, section 3.
    """

    offset: Tensor
    weight: Tensor

    def __init__(self, channels: int, num_segments: int, shift_div: int = 8):
        super().__init__()
        self.num_segments = num_segments
        self.channels = 2 * (channels // shift_div)
        if not 0 < self.channels <= channels:
            raise ValueError(f"model.shift_div {shift_div} does not fit {channels} channels")
        # Buffers move to the model's device; as constants, they are not saved in checkpoints.
        self.register_buffer("offset", torch.tensor([[-1.0, 1.0]]), persistent=False)
        self.register_buffer("weight", torch.ones(1, num_segments, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0] // self.num_segments
        return interlace(x, self.offset.expand(B, -1), self.weight.expand(B, -1, -1), self.channels)


class TemporalConv(nn.Module):
    """Convolve some of the channels densely over time; interlacing is compared with this module.

    ``y[b, t] = sum over s = -2..2 of W[s] x[b, t+s]`` for the first ``F = channels // shift_div``
    channels, with a full ``F x F`` matrix ``W[s]`` for each of the five frames and zeros outside
    the clip; the other channels are copied. Offsets between -2 and 2 reach five frames, so
    interlacing by fixed offsets and weights is a special case: each ``W[s]`` is diagonal, and a
    channel has at most two nonzero entries, for adjacent frames.

    Training starts from the same shifts as interlacing: the first half of the channels half a
    frame later, the second half of them half a frame earlier. A start near the identity learns
    motion much later.

    Shao et al., AAAI 2020, do not define their r-TCN; this definition is our own.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 4):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels:
            raise ValueError(f"model.shift_div {shift_div} does not fit {channels} channels")
        reach = int(MAX_OFFSET)
        # The kernel covers time and one pixel; forward puts time into the height of this 2D layer.
        self.conv = nn.Conv2d(
            self.channels, self.channels, (2 * reach + 1, 1), padding=(reach, 0), bias=False
        )
        # Each output channel starts as the mean of its own input at two adjacent frames.
        weight = torch.zeros(self.channels, self.channels, 2 * reach + 1)
        channel = torch.arange(self.channels)
        later = channel < self.channels / 2
        weight[channel, channel, reach] = 1 - INITIAL_OFFSET
        weight[channel, channel, torch.where(later, reach - 1, reach + 1)] = INITIAL_OFFSET
        with torch.no_grad():
            self.conv.weight.copy_(weight[..., None])

    def forward(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        # (B*T, F, H, W) -> (B, F, T, H*W), convolve over T, and back
        clip = x[:, : self.channels].unflatten(0, (-1, self.num_segments))
        mixed = self.conv(clip.transpose(1, 2).flatten(3)).unflatten(3, (H, W))
        return torch.cat([mixed.transpose(1, 2).flatten(0, 1), x[:, self.channels :]], dim=1)


def _imported_class(name: str) -> Callable[[int, int], nn.Module]:
    """Return the class that ``package.module:Class`` names."""
    module_name, found, class_name = name.partition(":")
    if not found:
        raise ConfigError(
            f"model.temporal {name}: expected none, shift, interlace, conv or package.module:Class"
        )
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.temporal {name}: cannot import this class: {error}. Its package must be"
            " importable on every machine that trains or tests."
        ) from None
