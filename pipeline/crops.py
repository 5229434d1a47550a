"""Which part of a frame is looked at. Pure NumPy, for a batch of videos at once.

Boxes and regions are in pixels; W and H are the stored width and height, ``(B,)`` each.
"""

import numpy as np

from configs.schema import AugmentSettings

# Corners of the 13 training crops, in quarters of the room that the crop leaves.
_QUARTERS_X = np.array([0, 4, 0, 4, 2, 0, 4, 2, 2, 1, 3, 1, 3])
_QUARTERS_Y = np.array([0, 0, 4, 4, 2, 2, 2, 4, 0, 1, 1, 3, 3])
# Corners of test crops as (x, y), as shares of the room.
_CORNERS = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)])
_ALONG_WIDTH = np.array([(0, 0.5), (1, 0.5), (0.5, 0.5)])


def training_boxes(
    width: np.ndarray, height: np.ndarray, augment: AugmentSettings, crop: int, draws: np.ndarray
) -> np.ndarray:
    """Return a multi-scale crop of each video, ``(B, 4)`` as x, y, width, height.

    The sides are ``augment.scales`` of the short side, at most ``augment.max_distort`` scales
    apart, and a side within two pixels of ``crop`` becomes ``crop``; the corner is one of 13
    fixed positions. ``draws`` ``(B, 2)`` in [0, 1) choose sides and position.

    Source: Wang et al., ECCV 2016, section 3.2, arXiv:1608.00859.
    """
    numbers = range(len(augment.scales))
    pairs = np.array(
        [(w, h) for h in numbers for w in numbers if abs(w - h) <= augment.max_distort]
    )
    short = np.minimum(width, height)[:, None]
    sides = np.maximum((short * np.array(augment.scales)).astype(np.int64), 1)
    sides = np.where((abs(sides - crop) < 3) & (crop <= short), crop, sides)
    sides = np.minimum(sides, short)
    pair = pairs[(draws[:, 0] * len(pairs)).astype(np.int64)]
    size = np.take_along_axis(sides, pair, axis=1)
    step = (np.stack([width, height], axis=1) - size) // 4
    position = (draws[:, 1] * len(_QUARTERS_X)).astype(np.int64)
    corner = np.stack([_QUARTERS_X[position], _QUARTERS_Y[position]], axis=1) * step
    return np.concatenate([corner, size], axis=1)


def scaled_sizes(width: np.ndarray, height: np.ndarray, short_side: int) -> np.ndarray:
    """Return ``(B, 2)`` width and height scaled to the short side; the long one is cut off."""
    sizes = np.stack([width, height], axis=1).astype(np.int64)
    return sizes * short_side // sizes.min(axis=1, keepdims=True)


def view_corners(sizes: np.ndarray, crop: int, num_crops: int, reference: bool) -> np.ndarray:
    """Return the corners of the test crops of scaled frames, ``(B, num_crops, 2)`` as x, y.

    1 is the center, 3 lie along the longer side (both ends, then the center), 5 are the corners
    and the center, and 10 the same five twice (the second five are to be mirrored).

    Args:
        sizes: ``(B, 2)`` width and height of the scaled frames, no side below ``crop``.
        reference: several crops as the original has them: 3 always along the width, and the
            far ones up to three pixels short of the border.
    """
    room = (sizes - crop)[:, None]
    if reference and num_crops > 1:
        room = room // 4 * 4
    if num_crops == 1:
        shares = _CORNERS[-1:]
    elif num_crops == 3:
        tall = (sizes[:, 1] > sizes[:, 0])[:, None, None] & (not reference)
        shares = np.where(tall, _ALONG_WIDTH[:, ::-1], _ALONG_WIDTH)
    else:
        shares = np.concatenate([_CORNERS] * (num_crops // 5))
    return np.rint(room * shares).astype(np.int64)


def source_regions(
    corners: np.ndarray, crop: int, sizes: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Return crops of scaled frames as regions of the stored ones.

    ``corners`` ``(B, V, 2)`` and ``sizes`` ``(B, 2)`` are as in `view_corners`; the result is
    ``(B, V, 4)`` float32: top, left, bottom, right.
    """
    scale = (np.stack([width, height], axis=1) / sizes)[:, None]
    x0, y0 = np.moveaxis(corners * scale, -1, 0)
    x1, y1 = np.moveaxis((corners + crop) * scale, -1, 0)
    return np.stack([y0, x0, y1, x1], axis=-1).astype(np.float32)
