"""The interlace operator: groups of channels shift along time by a fraction of frames."""

import torch
from torch import Tensor


def interlace(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Shift groups of channels along time by a fraction of frames, zero outside the clip.

    ``y[b, t] = weight[b, t, g] * x[b, t - offset[b, g]]`` for the first ``channels`` channels,
    linear between the two nearest frames; the other channels are copied.

    Args:
        x: ``(B*T, C, H, W)`` features of any float type, contiguous or channels_last.
        offset: ``(B, G)`` shifts in frames, positive is later. ``G`` divides ``channels``.
        weight: ``(B, T, G)`` gain of each output frame and group.
        channels: how many leading channels are interlaced, in ``G`` equal groups.

    Returns:
        Same shape, dtype, device and layout as ``x``; differentiable in the three tensors.

    Source: Shao et al., Temporal Interlacing Network, AAAI 2020, arXiv:2001.06499.
    """
    return interlace_reference(x, offset, weight, channels)


def interlace_reference(x: Tensor, offset: Tensor, weight: Tensor, channels: int) -> Tensor:
    """Return what `interlace` is defined to be, in plain PyTorch."""
    B, T, G = weight.shape
    _, C, H, W = x.shape
    clip = x[:, :channels].reshape(B, T, G, channels // G, H, W)
    whole = offset.detach().floor()
    part = (offset - whole)[:, None, :, None, None, None].to(x.dtype)

    def shifted(frames: Tensor) -> Tensor:
        source = torch.arange(T, device=x.device)[None, :, None] - frames.long()[:, None]
        inside = ((source >= 0) & (source < T))[..., None, None, None]
        index = source.clamp(0, T - 1)[..., None, None, None].expand_as(clip)
        return clip.gather(1, index) * inside

    mixed = (1 - part) * shifted(whole) + part * shifted(whole + 1)
    mixed = weight[..., None, None, None].to(x.dtype) * mixed
    return torch.cat([mixed.reshape(B * T, channels, H, W), x[:, channels:]], dim=1)
