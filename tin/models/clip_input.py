"""Turns uint8 batches into the input of the network, on the device where it computes.

Training, tests, predictions and exported models all use this module. L is
``clip.frames_per_segment``.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.batches import FLOW_MEAN, FLOW_STD, MEAN, STD

WHITE = 255.0


def to_pixels(x: Tensor) -> Tensor:
    """Return uint8 RGB ``(..., T, L, H, W, 3)`` as pixels in [0, 1], ``(..., T, L, 3, H, W)``."""
    return x.movedim(-1, -3) / WHITE


def from_pixels(pixels: Tensor) -> Tensor:
    """Return the input ``(..., T, L*3, H, W)`` of pixels in [0, 1], ``(..., T, L, 3, H, W)``."""
    mean, std = _normalization(3, 1.0, pixels.device)
    return standardized(pixels, mean, std)


def standardized(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Do what `from_pixels` does, with a mean and a deviation ``(3,)`` that the caller keeps."""
    return ((pixels - mean[:, None, None]) / std[:, None, None]).flatten(-4, -3)


def normalized(x: Tensor) -> Tensor:
    """Return the input ``(..., T, L*C, H, W)`` of a uint8 batch ``(..., T, L, H, W, C)``.

    RGB is normalized with ImageNet's mean and deviation, flow (C = 2) with those of TSN. The bits
    are those of earlier versions, which normalized in the loader.
    """
    mean, std = _normalization(x.shape[-1], WHITE, x.device)
    # The colors stay innermost in memory, as in the layout channels_last of the convolutions.
    return torch.sub(x, mean).div_(std).movedim(-1, -3).flatten(-4, -3)


@functools.cache
def _normalization(colors: int, white: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation of each color, for values from 0 to ``white``."""
    if colors == 3:
        return _on_device(MEAN, white, device), _on_device(STD, white, device)
    return (
        _on_device([FLOW_MEAN] * colors, white, device),
        _on_device([FLOW_STD] * colors, white, device),
    )


def _on_device(values: Sequence[float], factor: float, device: torch.device) -> Tensor:
    """Return numbers as a float32 tensor; a copy to the device would make the host wait."""
    tensor = torch.cat([torch.full((1,), value, device=device) for value in values])
    # Multiplied in float32, as in earlier versions, so that their runs resume with the same bits.
    return factor * tensor
