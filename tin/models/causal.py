"""Causal temporal modules: the output at a frame depends on this frame and earlier ones only.

A module maps ``(B*T, C, H, W)`` to the same shape for clips of any length T; the T frames of a
clip are adjacent. With `start_stream`, it takes one frame of each of B streams at a time instead,
and keeps a state of constant size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.load import ConfigError
from tin.models.temporal import INITIAL_OFFSET
from tin.op.interlace import interlace

PAST = 2  # frames before the present one that an output frame may depend on
HIDDEN = 8  # channels of the net that computes the offsets
GROUPS = 2


def causal_module(name: str, channels: int, num_segments: int, shift_div: int) -> nn.Module:
    """Return the causal temporal module of one block.

    Args:
        name: none, shift or interlace.
        channels: C of the block's input.
        num_segments: T, the frames of a clip.
        shift_div: 1/shift_div of the channels are shifted or interlaced.

    Raises:
        ConfigError: the module has no causal form.
        ValueError: the module does not fit the channels.
    """
    if name == "none":
        return nn.Identity()
    if name == "shift":
        return CausalShift(channels, num_segments, shift_div)
    if name == "interlace":
        return CausalInterlace(channels, num_segments, shift_div)
    raise ConfigError(
        f"model.temporal {name} has no causal form; set model.causal=false, or choose none, shift"
        " or interlace"
    )


class CausalShift(nn.Module):
    """Shift 1/shift_div of the channels one frame later; zeros come before the first frame.

    Source: the online model of Lin et al., TSM, ICCV 2019, arXiv:1811.08383, section 5.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 8):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels:
            raise ValueError(f"model.shift_div {shift_div} does not fit {channels} channels")
        self.is_stream = False
        self.last: Tensor | None = None
        """State of a stream: the shifted channels of the last frame ``(B, F, H, W)``."""

    def start_stream(self, is_stream: bool) -> None:
        """Start a new stream, or return to whole clips."""
        self.is_stream = is_stream
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_stream:
            return self._step(x)
        B = x.shape[0] // self.num_segments
        offset = torch.ones(B, 1, dtype=_small(x), device=x.device)
        weight = torch.ones(B, self.num_segments, 1, dtype=_small(x), device=x.device)
        return interlace(x, offset, weight, self.channels)

    def _step(self, x: Tensor) -> Tensor:
        moved = x[:, : self.channels]
        last = torch.zeros_like(moved) if self.last is None else self.last
        self.last = moved.clone()
        return torch.cat([last, x[:, self.channels :]], dim=1)


class CausalInterlace(nn.Module):
    """Delay two groups of channels by offsets that small nets compute from the past.

    The first ``F = channels // shift_div`` channels form two groups of equal size. Of each frame,
    the spatial means of the F channels enter two nets:

    - the offsets, between 0 and 2 frames: a convolution over three frames that is padded on the
      past side only, ReLU, the mean over all frames up to this one, and a linear layer;
      ``offset[t] = 2 sigmoid(...)``
    - the gains, between 0 and 2: another convolution of this kind; ``gain[t] = 2 sigmoid(...)``

    ``y[t] = gain[t] * sum over s = 0, 1, 2 of max(0, 1 - |offset[t] - s|) * x[t - s]``, with zeros
    before the first frame; the other channels are copied. No parameter depends on T.

    This causal form of Shao et al., AAAI 2020, arXiv:2001.06499, is our own definition.
    """

    def __init__(self, channels: int, num_segments: int, shift_div: int = 4):
        super().__init__()
        self.num_segments = num_segments
        self.channels = channels // shift_div
        if not self.channels or self.channels % GROUPS:
            raise ValueError(
                f"model.shift_div {shift_div} selects {self.channels} of {channels} channels to"
                " interlace, which is not a positive multiple of the two groups; choose another"
                " model.shift_div"
            )
        self.offset_conv = nn.Conv1d(self.channels, HIDDEN, kernel_size=PAST + 1)
        self.offset_fc = nn.Linear(HIDDEN, GROUPS)
        # Start at INITIAL_OFFSET: solve the formula of the offset for the argument of the sigmoid.
        share = INITIAL_OFFSET / PAST
        nn.init.constant_(self.offset_fc.bias, math.log(share / (1 - share)))
        self.gain_conv = nn.Conv1d(self.channels, GROUPS, kernel_size=PAST + 1)
        assert self.gain_conv.bias is not None
        nn.init.zeros_(self.gain_conv.bias)  # which makes a gain of one
        self.is_stream = False
        self.state: StreamState | None = None

    def start_stream(self, is_stream: bool) -> None:
        """Start a new stream, or return to whole clips."""
        self.is_stream = is_stream
        self.state = None

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        part = x[:, : self.channels].contiguous(memory_format=layout)
        pooled = part.mean((2, 3), dtype=self.gain_conv.weight.dtype)
        if self.is_stream:
            return torch.cat([self._step(part, pooled), x[:, self.channels :]], dim=1)
        # Let the convolutions see time last, (B, F, PAST + T), with zeros before the clip.
        T = self.num_segments
        past = functional.pad(pooled.unflatten(0, (-1, T)).transpose(1, 2), (PAST, 0))
        # Autocast is off because an offset in bfloat16 would be too coarse.
        with torch.autocast(x.device.type, enabled=False):
            hidden = self.offset_conv(past).relu()
            frames = torch.arange(1, T + 1, device=x.device, dtype=hidden.dtype)
            offset = self._offset((hidden.cumsum(2) / frames).transpose(1, 2))
            weights = self._weights(offset, self._gain(past))

        # One call of the operator for each whole number of frames.
        B = weights.shape[1]
        y = torch.zeros_like(part)
        for delay, weight in enumerate(weights):
            offset = torch.full((B, GROUPS), float(delay), dtype=weight.dtype, device=x.device)
            y = y + interlace(part, offset, weight, self.channels)
        return torch.cat([y, x[:, self.channels :]], dim=1)

    def _step(self, part: Tensor, pooled: Tensor) -> Tensor:
        """Return the output for the next frame of each stream, and update the state."""
        state = self.state or StreamState(part, pooled)
        past = torch.stack([*state.pooled, pooled], dim=2)
        with torch.autocast(part.device.type, enabled=False):
            state.sum = state.sum + self.offset_conv(past).relu()[..., 0]
            state.count += 1
            offset = self._offset(state.sum / state.count)
            weights = self._weights(offset, self._gain(past)[:, 0])
        # The present frame has a delay of 0, the newest kept one of 1.
        delayed = (part, *reversed(state.frames))
        per_channel = weights.to(part.dtype).repeat_interleave(self.channels // GROUPS, 2)
        y = torch.zeros_like(part)
        for frame, weight in zip(delayed, per_channel, strict=True):
            y = y + weight[..., None, None] * frame
        state.frames = [state.frames[1], part.clone()]
        state.pooled = [state.pooled[1], pooled]
        self.state = state
        return y

    def _offset(self, mean: Tensor) -> Tensor:
        """Return the offsets ``(..., G)`` of means ``(..., HIDDEN)`` over the frames up to now."""
        return PAST * self.offset_fc(mean).sigmoid()

    def _gain(self, past: Tensor) -> Tensor:
        """Return the gains ``(B, T, G)`` of pooled features ``(B, F, PAST + T)``."""
        return 2 * self.gain_conv(past).sigmoid().transpose(1, 2)

    def _weights(self, offset: Tensor, gain: Tensor) -> Tensor:
        """Return the weight of each delay ``(PAST + 1, ..., G)`` for offsets and gains."""
        hats = [gain * (1 - (offset - delay).abs()).relu() for delay in range(PAST + 1)]
        return torch.stack(hats)


class StreamState:
    """What `CausalInterlace` keeps of the past of B streams; its size does not grow."""

    def __init__(self, part: Tensor, pooled: Tensor):
        """Start before the first frame: with zeros.

        Args:
            part: ``(B, F, H, W)`` interlaced channels of a frame, for their shape.
            pooled: ``(B, F)`` their spatial means, for their shape.
        """
        self.frames = [torch.zeros_like(part) for _ in range(PAST)]
        """Interlaced channels of the last frames, the oldest first."""
        self.pooled = [torch.zeros_like(pooled) for _ in range(PAST)]
        """Spatial means of these frames."""
        self.sum = pooled.new_zeros(len(pooled), HIDDEN)
        """Sum of the hidden channels over all frames so far."""
        self.count = 0
        """Number of frames so far."""


def _small(x: Tensor) -> torch.dtype:
    """Return the type of the offset and the weight that `interlace` expects."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
