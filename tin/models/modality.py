"""What the network sees of a clip: RGB frames, differences of RGB frames, or optical flow.

The loader normalizes frames. This module turns them into the input of the first convolution, and
the weights of a first convolution for RGB into those for another modality.
L is ``clip.frames_per_segment``.
"""

import torch
from torch import Tensor, nn

from configs.schema import Modality
from pipeline.batches import STD


def input_channels(modality: Modality, frames_per_segment: int) -> int:
    """Return the channels of the first convolution.

    RGB has three for each frame. RGB difference has three for each pair of neighboring frames, one
    pair fewer than frames. Flow has two for each frame, along x and along y.
    """
    if modality == "flow":
        return 2 * frames_per_segment
    return 3 * (frames_per_segment - 1 if modality == "diff" else frames_per_segment)


def input_transform(modality: Modality) -> nn.Module:
    """Return a module from frames of the loader ``(N, L*channels, H, W)`` to those of the input."""
    return FrameDifference() if modality == "diff" else nn.Identity()


class FrameDifference(nn.Module):
    """Subtract each frame of a segment from the next one, ``(N, L*3, H, W) -> (N, (L-1)*3, H, W)``.

    The frames are normalized with ImageNet's mean and deviation. As in TSN and TSM, the differences
    are those of pixels between 0 and 1, which are not normalized.
    """

    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unflatten(1, (-1, 3))
        return ((frames[:, 1:] - frames[:, :-1]) * self.std).flatten(1, 2)


def from_rgb(weight: Tensor, channels: int) -> Tensor:
    """Return a first convolution's weights ``(K, channels, h, w)`` from those for RGB.

    Every channel gets the mean over red, green and blue.

    Source: cross-modality initialization, Wang et al., ECCV 2016, arXiv:1608.00859, section 3.2.
    """
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)
