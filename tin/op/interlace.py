"""The interlace operator: groups of channels shift along time by a fraction of frames."""

import functools
import logging

import torch
from torch import Tensor

from tin.op.build import BuildError, load

log = logging.getLogger(__name__)

LIBRARY = torch.library.Library("tin", "FRAGMENT")  # its kernels are compiled from cuda/
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def interlace(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Shift groups of channels along time by a fraction of frames, zero outside the clip.

    ``y[b, t] = weight[b, t, g] * x[b, t - offset[b, g]]`` for the first ``channels`` channels,
    linear between the two nearest frames; the other channels are copied. Group ``g`` has the
    channels from ``g * channels / G``.

    Args:
        x: ``(B*T, C, H, W)`` features of any float type, contiguous or channels_last (else they
            are copied first).
        offset: ``(B, G)`` shifts in frames, positive is later; float32, or float64 with a float64
            ``x``. ``G`` divides ``channels``.
        weight: ``(B, T, G)`` gain of each output frame and group, of the type of ``offset``.
        channels: how many leading channels are interlaced, in ``G`` equal groups.

    Returns:
        Same shape, dtype, device and layout as ``x``; differentiable once in the three tensors,
        in ``offset`` from the right where it is an integer. Under autocast ``x`` keeps its type
        and the other two become float32.

    Raises:
        ValueError: ``G`` does not divide ``channels``, or sizes or devices differ.
        TypeError: a tensor is of a wrong type.

    Source: Shao et al., Temporal Interlacing Network, AAAI 2020, arXiv:2001.06499.
    """
    if torch.is_autocast_enabled(x.device.type):
        offset, weight = offset.to(_small(x)), weight.to(_small(x))
    _check(x, offset, weight, channels)
    last = x.is_contiguous(memory_format=torch.channels_last)
    if not is_compiled(x.device.type):
        y = interlace_reference(x, offset, weight, channels)
        return y.contiguous(memory_format=torch.channels_last) if last else y
    if not last:
        x = x.contiguous()
    return torch.ops.tin.interlace(x, offset.contiguous(), weight.contiguous(), channels)


def interlace_reference(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Return what `interlace` is defined to be, in plain PyTorch."""
    B, T, G = weight.shape
    _, C, H, W = x.shape
    clip = x[:, :channels].to(weight.dtype).reshape(B, T, G, channels // G, H, W)
    offset = offset.clamp(-T - 1, T + 1)  # all the same: nothing of the clip is left
    whole = offset.detach().floor()
    part = (offset - whole)[:, None, :, None, None, None]

    def shifted(frames: Tensor) -> Tensor:
        source = torch.arange(T, device=x.device)[None, :, None] - frames.long()[:, None]
        inside = ((source >= 0) & (source < T))[..., None, None, None]
        index = source.clamp(0, max(T - 1, 0))[..., None, None, None].expand_as(clip)
        return clip.gather(1, index).where(inside, 0)

    mixed = (1 - part) * shifted(whole) + part * shifted(whole + 1)
    mixed = (weight[..., None, None, None] * mixed).reshape(B * T, channels, H, W)
    return torch.cat([mixed.to(x.dtype), x[:, channels:]], dim=1)


@torch.compiler.assume_constant_result
def is_compiled(device_type: str) -> bool:
    """Return whether `interlace` has kernels for a type of device; plain PyTorch does without."""
    return device_type in ("cpu", "cuda") and _load(device_type)


def _small(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> None:
    if x.dtype not in FLOATS or x.layout != torch.strided:
        raise TypeError(f"interlace: x is {x.dtype}, {x.layout}; expected a dense float tensor")
    shapes = f"x {tuple(x.shape)}, offset {tuple(offset.shape)}, weight {tuple(weight.shape)}"
    if (x.dim(), offset.dim(), weight.dim()) != (4, 2, 3):
        raise ValueError(f"interlace: found {shapes}; expected (B*T, C, H, W), (B, G), (B, T, G)")
    B, T, G = weight.shape
    if offset.shape != (B, G) or x.shape[0] != B * T:
        raise ValueError(
            f"interlace: found {shapes}; weight means {B} clips of {T} frames and {G} groups,"
            f" so that x has {B * T} frames and offset is {(B, G)}"
        )
    if not (G > 0 and 0 < channels <= x.shape[1] and channels % G == 0):
        raise ValueError(
            f"interlace: {G} groups must divide {channels} channels, of {x.shape[1]} that x has"
        )
    for name, tensor in (("offset", offset), ("weight", weight)):
        if tensor.dtype != _small(x):
            raise TypeError(
                f"interlace: {name} is {tensor.dtype}, expected {_small(x)} with x of {x.dtype}"
            )
        if tensor.device != x.device:
            raise ValueError(f"interlace: {name} is on {tensor.device}, x on {x.device}")


@functools.cache
def _load(device_type: str) -> bool:
    """Load the kernels of a device; say once what to do if there are none."""
    try:
        load(device_type)
    except BuildError as error:
        log.warning(
            "%s; until then the interlace operator runs as plain PyTorch, several times slower",
            error,
        )
        return False
    return True


_tags = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
LIBRARY.define(
    "interlace(Tensor x, Tensor offset, Tensor weight, int channels) -> Tensor", tags=_tags
)
LIBRARY.define(
    "interlace_backward(Tensor grad, Tensor x, Tensor offset, Tensor weight, int channels,"
    " bool need_x, bool need_small) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)


@torch.library.register_fake("tin::interlace")
def _fake(x, offset, weight, channels):
    return torch.empty_like(x)


@torch.library.register_fake("tin::interlace_backward")
def _fake_backward(grad, x, offset, weight, channels, need_x, need_small):
    def made(like: Tensor, needed: bool) -> Tensor:
        return torch.empty_like(like) if needed else like.new_empty(0)

    return made(x, need_x), made(offset, need_small), made(weight, need_small)


def _setup_context(ctx, inputs, output):
    x, offset, weight, ctx.channels = inputs
    ctx.save_for_backward(x, offset, weight)


def _backward(ctx, grad):
    if torch.is_grad_enabled():
        raise RuntimeError(
            "interlace: its gradient is not differentiable; call backward without create_graph"
        )
    x, offset, weight = ctx.saved_tensors
    # dense and laid out as x: .sum() sends one number with strides of 0
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    grad = grad.contiguous(memory_format=layout)
    need_x, *need_small, _ = ctx.needs_input_grad
    dx, d_offset, d_weight = torch.ops.tin.interlace_backward(
        grad, x, offset, weight, ctx.channels, need_x, any(need_small)
    )
    return (
        dx if need_x else None,
        d_offset if need_small[0] else None,
        d_weight if need_small[1] else None,
        None,
    )


torch.library.register_autograd("tin::interlace", _backward, setup_context=_setup_context)
