"""Cuts the views out of decoded frames on a CPU, and scales them. Holds no state.

F frames of a clip or N images of one size, C colors, S side of the square crop. Images are uint8
``(N, H, W, C)`` in NumPy; flow has two gray images for each frame.

Nothing here starts threads of its own, so that several clips can be cut at once.
"""

import numpy as np
import torch

from pipeline.decoded import Arguments


def cut_training(images: np.ndarray, arguments: Arguments, crop: int) -> list[np.ndarray]:
    """Return the only view of a training clip.

    ``corner`` and ``size`` are those of the region (y, x in pixels). It is scaled to the crop,
    whatever its shape, and mirrored if ``flip`` is not 0. Only the region is read.
    """
    y, x = arguments["corner"].tolist()
    height, width = arguments["size"].tolist()
    region = images[:, y : y + height, x : x + width]
    if arguments["flip"]:
        region = mirrored(region)
    return [scaled(region, crop, crop)]


def cut_evaluation(images: np.ndarray, arguments: Arguments, crop: int) -> list[np.ndarray]:
    """Return the views of a test clip: frames are scaled, then cropped.

    ``scaled`` is the width and height of the scaled frames, ``corners`` ``(C, 2)`` are x and y in
    them, and ``mirrored`` ``(C,)`` says which crops are mirrored.
    """
    width, height = arguments["scaled"].tolist()
    frames = scaled(images, height, width)
    views = []
    for (x, y), flip in zip(arguments["corners"].tolist(), arguments["mirrored"], strict=True):
        view = frames[:, y : y + crop, x : x + crop]
        views.append(mirrored(view) if flip else view)
    return views


def scaled(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale images with the triangle filter, which covers more pixels where they shrink.

    The result is that of Pillow's bilinear resize. torch runs it in the calling thread.
    """
    if images.shape[1:3] == (height, width):
        return images
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    result = torch.nn.functional.interpolate(
        channels_first, size=(height, width), mode="bilinear", antialias=True
    )
    return result.permute(0, 2, 3, 1).numpy()


def mirrored(images: np.ndarray) -> np.ndarray:
    """Exchange left and right."""
    # NumPy copies whole pixels much faster than single bytes.
    pixels = images.view(f"V{images.shape[-1]}")
    return np.ascontiguousarray(pixels[:, :, ::-1]).view(np.uint8)
