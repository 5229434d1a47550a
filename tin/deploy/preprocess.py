"""Scaling, center crop and normalization of frames inside an exported model."""

import torch
from torch import Tensor, nn

from configs.schema import Config
from pipeline.batches import FLOW_MEAN, FLOW_STD, MEAN, STD
from tin.models.clip_input import standardized


class Preprocess(nn.Module):
    """Turn frames ``(B, T*L, H, W, C)`` uint8 of any size into input ``(B, T, L*C, S, S)``.

    C is 3 for RGB and 2 for optical flow.

    The frames are scaled to the short side `clip.resize`, and the center is cropped. Scaling uses
    the triangle filter of Pillow, which covers more pixels where a frame shrinks. It is written as
    two matrix products, one for each axis, because exported files then hold standard operators
    only and accept frames of any size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.num_segments = config.clip.num_segments
        self.resize = config.clip.resize
        self.side = config.test_crop
        is_flow = config.clip.modality == "flow"
        self.register_buffer("mean", torch.tensor([FLOW_MEAN] * 2 if is_flow else MEAN))
        self.register_buffer("std", torch.tensor([FLOW_STD] * 2 if is_flow else STD))

    def forward(self, frames: Tensor) -> Tensor:
        B, F, H, W, C = frames.shape
        S = self.side
        rows = torch.arange(H, device=frames.device)
        columns = torch.arange(W, device=frames.device)
        # The sizes are tensors, not numbers, so that they stay variable in an exported file.
        height = rows[-1] + 1
        width = columns[-1] + 1
        short = torch.minimum(height, width)
        vertical = self._matrix(rows, height, short)
        horizontal = self._matrix(columns, width, short)
        x = frames.permute(0, 1, 4, 2, 3).to(self.mean.dtype)  # (B, F, C, H, W)
        x = vertical @ (x @ horizontal.T) / 255
        pixels = x.reshape(B, self.num_segments, F // self.num_segments, C, S, S)
        return standardized(pixels, self.mean, self.std)

    def _matrix(self, pixels: Tensor, length: Tensor, short: Tensor) -> Tensor:
        """Return the ``(S, length)`` weights of the pixels of one axis in the crop."""
        scaled = length * self.resize // short
        corner = ((scaled - self.side) / 2).round()
        pixels_per_step = length / scaled
        # The middle of each pixel of the crop, in pixels of the frame.
        steps = torch.arange(self.side, device=pixels.device)
        centers = (corner + steps + 0.5) * pixels_per_step
        # The filter covers one pixel to each side, and more where the frame shrinks. It ends at
        # the border of the frame.
        reach = pixels_per_step.clamp(min=1.0)
        weights = (1 - ((pixels + 0.5 - centers[:, None]) / reach).abs()).relu()
        return weights / weights.sum(1, keepdim=True)


class Deployed(nn.Module):
    """A network with its preprocessing: frames ``(B, T*L, H, W, C)`` uint8 to logits ``(B, K)``."""

    def __init__(self, network: nn.Module, config: Config):
        super().__init__()
        self.preprocess = Preprocess(config)
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        return self.network(self.preprocess(frames))
