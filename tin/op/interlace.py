"""The interlace operator: groups of channels shift along time by a fraction of frames."""

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from tin.op.build import BuildError, load

log = logging.getLogger(__name__)

# The operators are declared at the end of this file. cuda/binding.cpp implements them.
LIBRARY = torch.library.Library("tin", "FRAGMENT")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def interlace(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Shift groups of channels along time by a fraction of frames, zero outside the clip.

    ``y[b, t] = weight[b, t, g] * x[b, t - offset[b, g]]`` for the first ``channels`` channels,
    linear between the two nearest frames; the other channels are copied. Group ``g`` has the
    channels from ``g * channels / G``.

    Args:
        x: ``(B*T, C, H, W)`` features of any float type, contiguous or channels_last; a tensor of
            another layout is copied first.
        offset: ``(B, G)`` shifts in frames, positive is later; float32, or float64 with a float64
            ``x``. ``G`` divides ``channels``.
        weight: ``(B, T, G)`` gain of each output frame and group, of the type of ``offset``.
        channels: number of leading channels that are interlaced, in ``G`` equal groups.

    Returns:
        A tensor of the shape, dtype, device and layout of ``x``. It can be differentiated once
        with respect to the three tensors; at integer offsets the gradient is the right derivative.
        Under autocast ``x`` keeps its type and the other two become float32.

    Raises:
        ValueError: ``G`` does not divide ``channels``, or sizes or devices differ.
        TypeError: a tensor has a wrong type.

    Source: Shao et al., Temporal Interlacing Network, AAAI 2020, arXiv:2001.06499.
    """
    if is_exporting():
        return interlace_by_matrix(x, offset, weight, channels)
    if torch.is_autocast_enabled(x.device.type):
        offset = offset.to(_small_dtype(x))
        weight = weight.to(_small_dtype(x))
    _check(x, offset, weight, channels)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if not is_compiled(x.device.type):
        y = interlace_reference(x, offset, weight, channels)
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y
    if not channels_last:
        x = x.contiguous()
    return torch.ops.tin.interlace(x, offset.contiguous(), weight.contiguous(), channels)


def interlace_reference(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Compute the definition of `interlace` in plain PyTorch."""
    B, T, G = weight.shape
    H, W = x.shape[2:]
    clip = x[:, :channels].to(weight.dtype).reshape(B, T, G, channels // G, H, W)

    # Split each offset into whole frames and a part of a frame. Beyond T + 1 frames the whole clip
    # is shifted out, so clamping does not change the result; it makes infinite offsets finite.
    offset = offset.clamp(-T - 1, T + 1)
    whole = offset.detach().floor()
    part = (offset - whole)[:, None, :, None, None, None]

    def shifted(frames: Tensor) -> Tensor:
        """Shift the clip by whole ``frames`` ``(B, G)``, with zeros outside of it."""
        source = torch.arange(T, device=x.device)[None, :, None] - frames.long()[:, None]
        inside = ((source >= 0) & (source < T))[..., None, None, None]
        index = source.clamp(0, max(T - 1, 0))[..., None, None, None].expand_as(clip)
        return clip.gather(1, index).where(inside, 0)

    # Interpolate between the two nearest frames, apply the gain, and append the other channels.
    mixed = (1 - part) * shifted(whole) + part * shifted(whole + 1)
    mixed = (weight[..., None, None, None] * mixed).reshape(B * T, channels, H, W)
    return torch.cat([mixed.to(x.dtype), x[:, channels:]], dim=1)


def interlace_by_matrix(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Compute the definition of `interlace` with a matrix over the frames of a clip.

    The matrix of a clip and a group is ``weight[t] * max(0, 1 - |t - s - offset|)`` for output
    frame t and input frame s, which is linear interpolation with zeros outside the clip. It needs
    standard operators only, so exported files hold it instead of the operator.
    """
    _, T, G = weight.shape
    H, W = x.shape[2:]
    frame = torch.arange(T, device=x.device, dtype=weight.dtype)
    lag = frame[:, None] - frame
    hat = (1 - (lag - offset[..., None, None]).abs()).relu()
    matrix = weight.transpose(1, 2)[..., None] * hat

    # (B*T, F, H, W) -> (B, G, T, F/G*H*W), mix the frames, and back
    clip = x[:, :channels].reshape(-1, T, G, channels // G * H * W).transpose(1, 2)
    mixed = (matrix.to(x.dtype) @ clip).transpose(1, 2).reshape(-1, channels, H, W)
    return torch.cat([mixed, x[:, channels:]], dim=1)


@torch.compiler.assume_constant_result  # torch.compile evaluates it once instead of tracing it
def is_compiled(device_type: str) -> bool:
    """Return whether `interlace` has kernels for a device; without them it is plain PyTorch."""
    return device_type in ("cpu", "cuda") and _load(device_type)


def is_exporting() -> bool:
    """Return whether torch.export traces the model, so that standard operators must be used.

    While torch.compile traces it, `torch.compiler.is_exporting` is also True before torch 2.13.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def _small_dtype(x: Tensor) -> torch.dtype:
    """Return the type of offset and weight, the two small tensors."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> None:
    """Raise an error that names the argument that does not fit, what was found, and expected."""
    if x.dtype not in FLOATS or x.layout != torch.strided:
        raise TypeError(f"interlace: x is {x.dtype}, {x.layout}; expected a dense float tensor")
    shapes = f"x {tuple(x.shape)}, offset {tuple(offset.shape)}, weight {tuple(weight.shape)}"
    if (x.dim(), offset.dim(), weight.dim()) != (4, 2, 3):
        raise ValueError(f"interlace: found {shapes}; expected (B*T, C, H, W), (B, G), (B, T, G)")
    B, T, G = weight.shape
    if offset.shape != (B, G) or x.shape[0] != B * T:
        raise ValueError(
            f"interlace: found {shapes}; weight means {B} clips of {T} frames and {G} groups, so x"
            f" must have {B * T} frames and offset must be {(B, G)}"
        )
    if not (G > 0 and 0 < channels <= x.shape[1] and channels % G == 0):
        raise ValueError(
            f"interlace: {G} groups must divide {channels} channels, at most the {x.shape[1]} of x"
        )
    for name, tensor in (("offset", offset), ("weight", weight)):
        expected = _small_dtype(x)
        if tensor.dtype != expected:
            raise TypeError(
                f"interlace: {name} is {tensor.dtype}, expected {expected} because x is {x.dtype}"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"interlace: {name} is on {tensor.device}, expected the device of x, {x.device}"
            )


@functools.cache
def _load(device_type: str) -> bool:
    """Load the kernels of a device once; if that fails, warn once and return False."""
    try:
        load(device_type)
    except BuildError as error:
        log.warning(
            "%s; until then the interlace operator runs in plain PyTorch, which is several times"
            " slower",
            error,
        )
        return False
    return True


# Declare the operators in Python, so that they exist before a compiled library is loaded.
# needs_fixed_stride_order keeps the compiler from changing the layout of the inputs, which the
# kernels check. pt2_compliant_tag tells torch.compile that the operator may be part of a graph.
_tags = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
LIBRARY.define(
    "interlace(Tensor x, Tensor offset, Tensor weight, int channels) -> Tensor", tags=_tags
)
# The backward is an operator too, so that a compiled backward graph calls it as one node.
LIBRARY.define(
    "interlace_backward(Tensor grad, Tensor x, Tensor offset, Tensor weight, int channels,"
    " bool need_x, bool need_small) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)


# The fake versions return outputs of the right shape, type and layout without computing them.
# torch.compile and torch.export call them while they trace a graph.
@torch.library.register_fake("tin::interlace")
def _fake(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("tin::interlace_backward")
def _fake_backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    channels: int,
    need_x: bool,
    need_small: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    def empty(like: Tensor, needed: bool) -> Tensor:
        return torch.empty_like(like) if needed else like.new_empty(0)

    return empty(x, need_x), empty(offset, need_small), empty(weight, need_small)


# `ctx` is Any because torch adds attributes to it that its declared type lacks.
def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    """Keep the inputs that the backward needs."""
    x, offset, weight, ctx.channels = inputs
    ctx.save_for_backward(x, offset, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """Return the gradients of x, offset and weight; None for those that are not needed."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "interlace: its gradient is not differentiable; call backward without create_graph"
        )
    x, offset, weight = ctx.saved_tensors
    # The kernels need a gradient in the layout of x. That of .sum(), for example, is one number
    # with strides of 0.
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    grad = grad.contiguous(memory_format=layout)
    need_x, need_offset, need_weight, _ = ctx.needs_input_grad
    dx, d_offset, d_weight = torch.ops.tin.interlace_backward(
        grad, x, offset, weight, ctx.channels, need_x, need_offset or need_weight
    )
    return (
        dx if need_x else None,
        d_offset if need_offset else None,
        d_weight if need_weight else None,
        None,
    )


# Tell autograd how to differentiate the operator, which it cannot see through. torch.compile uses
# the same two functions to trace the backward graph.
torch.library.register_autograd("tin::interlace", _backward, setup_context=_setup_context)
