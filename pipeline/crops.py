"""Chooses the part of a frame that a clip shows. Pure NumPy, for a batch of videos at once.

Boxes and regions are in pixels. ``width`` and ``height`` are those of the stored frames, ``(B,)``.
The margin of a crop is the frame's side minus the crop's side: the range of the crop's corner.
"""

import numpy as np

from configs.schema import AugmentSettings

# Corners of the 13 training crops, in quarters of the margin: the four corners and the center, the
# middles of the four sides, and the four points halfway between the center and the corners.
_QUARTERS_X = np.array([0, 4, 0, 4, 2, 0, 4, 2, 2, 1, 3, 1, 3])
_QUARTERS_Y = np.array([0, 0, 4, 4, 2, 2, 2, 4, 0, 1, 1, 3, 3])
# Corners of test crops as (x, y), in shares of the margin.
_CORNERS = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)])
_ALONG_WIDTH = np.array([(0, 0.5), (1, 0.5), (0.5, 0.5)])


def training_boxes(
    width: np.ndarray, height: np.ndarray, augment: AugmentSettings, crop: int, draws: np.ndarray
) -> np.ndarray:
    """Return a multi-scale crop of each video, ``(B, 4)`` as x, y, width, height.

    Each side is one of ``augment.scales`` times the short side of the frame, and the scales of the
    two sides are at most ``augment.max_distort`` places apart in that list. A side within two
    pixels of ``crop`` becomes ``crop``. The corner is one of 13 fixed positions. ``draws``
    ``(B, 2)`` in [0, 1) choose the sides and the position.

    Source: Wang et al., ECCV 2016, section 3.2, arXiv:1608.00859.
    """
    # List the pairs of scales (width, height) that a crop may have.
    indices = range(len(augment.scales))
    pairs = np.array(
        [(w, h) for h in indices for w in indices if abs(w - h) <= augment.max_distort]
    )

    # Scale the short side of each frame. A side that is nearly `crop` becomes `crop`, so that the
    # frame is not resampled for a pixel or two.
    short = np.minimum(width, height)[:, None]
    sides = np.maximum((short * np.array(augment.scales)).astype(np.int64), 1)
    sides = np.where((abs(sides - crop) < 3) & (crop <= short), crop, sides)
    sides = np.minimum(sides, short)

    # Draw a pair of scales and look up its two sides.
    pair = pairs[(draws[:, 0] * len(pairs)).astype(np.int64)]
    size = np.take_along_axis(sides, pair, axis=1)

    # Draw one of the 13 positions and step to it in quarters of the margin.
    step = (np.stack([width, height], axis=1) - size) // 4
    position = (draws[:, 1] * len(_QUARTERS_X)).astype(np.int64)
    corner = np.stack([_QUARTERS_X[position], _QUARTERS_Y[position]], axis=1) * step
    return np.concatenate([corner, size], axis=1)


def scaled_sizes(width: np.ndarray, height: np.ndarray, short_side: int) -> np.ndarray:
    """Return width and height scaled to a short side, ``(B, 2)``; the long side is rounded down."""
    sizes = np.stack([width, height], axis=1).astype(np.int64)
    return sizes * short_side // sizes.min(axis=1, keepdims=True)


def view_corners(sizes: np.ndarray, crop: int, num_crops: int, reference: bool) -> np.ndarray:
    """Return the corners of the test crops of scaled frames, ``(B, num_crops, 2)`` as x, y.

    1 crop is the center. 3 crops lie along the longer side: both ends, then the center. 5 crops are
    the four corners and the center. 10 crops are the same five twice; the caller mirrors the second
    five.

    Args:
        sizes: ``(B, 2)`` width and height of the scaled frames, no side below ``crop``.
        crop: side of the square crop.
        num_crops: 1, 3, 5 or 10.
        reference: place several crops as the original does: 3 crops always lie along the width,
            and the far crops end up to three pixels before the border.
    """
    margin = (sizes - crop)[:, None]
    if reference and num_crops > 1:
        margin = margin // 4 * 4
    if num_crops == 1:
        shares = _CORNERS[-1:]
    elif num_crops == 3:
        # Exchange x and y for frames that are taller than wide.
        tall = (sizes[:, 1] > sizes[:, 0])[:, None, None] & (not reference)
        shares = np.where(tall, _ALONG_WIDTH[:, ::-1], _ALONG_WIDTH)
    else:
        shares = np.concatenate([_CORNERS] * (num_crops // 5))
    return np.rint(margin * shares).astype(np.int64)


def source_regions(
    corners: np.ndarray, crop: int, sizes: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Return crops of scaled frames as regions of the stored frames.

    ``corners`` ``(B, V, 2)`` and ``sizes`` ``(B, 2)`` are as in `view_corners`; the result is
    ``(B, V, 4)`` float32: top, left, bottom, right.
    """
    scale = (np.stack([width, height], axis=1) / sizes)[:, None]
    left, top = np.moveaxis(corners * scale, -1, 0)
    right, bottom = np.moveaxis((corners + crop) * scale, -1, 0)
    return np.stack([top, left, bottom, right], axis=-1).astype(np.float32)
