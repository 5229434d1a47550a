"""The input of the network, computed from uint8 batches."""

import numpy as np
import pytest
import torch

from pipeline.batches import FLOW_MEAN, FLOW_STD, MEAN, STD
from tin.models.clip_input import from_pixels, normalized, to_pixels

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_pixels_have_the_bits_of_earlier_versions():
    """A run that is resumed after an update must end with the same weights."""
    x = LEVELS.view(1, 1, 1, 16, 16, 1).repeat(2, 4, 1, 1, 1, 3)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    earlier = torch.sub(x[:, :, 0].permute(0, 1, 4, 2, 3), mean).div_(std)
    assert torch.equal(normalized(x), earlier)


@pytest.mark.parametrize("colors", [3, 2])
def test_stacked_frames_are_normalized_by_the_definition(colors):
    x = torch.randint(256, (2, 5, 4, 3, 6, 7, colors)).byte()  # B, V, T, L, H, W, C
    mean, std = (MEAN, STD) if colors == 3 else (FLOW_MEAN, FLOW_STD)
    want = np.moveaxis((x.numpy() / 255 - mean) / std, -1, -3).reshape(2, 5, 4, 3 * colors, 6, 7)
    found = normalized(x)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, want, atol=1e-6)
    if colors == 3:
        np.testing.assert_allclose(from_pixels(to_pixels(x)), want, atol=1e-6)


def test_pixels_are_from_0_to_1_with_colors_before_rows():
    x = torch.zeros(1, 2, 1, 4, 5, 3, dtype=torch.uint8)
    x[..., 1] = 255
    pixels = to_pixels(x)
    assert pixels.shape == (1, 2, 1, 3, 4, 5)
    assert pixels[:, :, :, 1].eq(1).all()
    assert pixels[:, :, :, ::2].eq(0).all()


def test_frames_of_one_a_segment_are_channels_last_without_a_copy():
    frames = normalized(torch.zeros(2, 4, 1, 6, 7, 3, dtype=torch.uint8)).flatten(0, 1)
    assert frames.is_contiguous(memory_format=torch.channels_last)
