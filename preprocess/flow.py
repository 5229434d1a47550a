"""Optical flow as it is stored: for each flow frame two gray JPEGs, along x and along y.

A pixel of 128 means no motion; 0 and 255 mean 20 pixels to the left or up, and to the right or
down, as in the flow images of TSN.
"""

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from configs.load import ConfigError
from configs.schema import ShardSettings
from configs.small_files import read_bytes
from preprocess.decode import BadVideoError, check_pixels
from preprocess.frame_folders import MAX_FILE_BYTES, list_frames
from preprocess.videos import EncodedVideo, check_share, stored_size, thinned

PLANES = 2
"""JPEGs of a flow frame: along x, along y."""
BOUND = 20.0
"""Largest stored motion, in pixels of the stored frame."""
AXIS = re.compile(r"(?:^|[_-])([xy])(?=[_-])")
"""Matches the axis in names of flow images, as in flow_x_00001.jpg and 000012-x_00001.jpg."""

NO_OPENCV = (
    "shard.flow dis needs OpenCV, which is not installed; install it with"
    " `pip install tin-video[flow]`"
)

Pair = tuple[bytes, bytes]


def compute_flow(video: EncodedVideo, settings: ShardSettings) -> EncodedVideo:
    """Return the flow between the frames of an encoded video, by OpenCV's DIS.

    Flow frame i is the motion from frame i to frame i+1, so there is one fewer than frames.

    Raises:
        BadVideoError: the video has one frame.
        ConfigError: OpenCV is not installed.

    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016,
    arXiv:1603.03590.
    """
    try:
        import cv2
    except ImportError:
        raise ConfigError(NO_OPENCV) from None
    if len(video.jpegs) < 2:
        raise BadVideoError("flow needs at least two frames, and the video has one")
    cv2.setNumThreads(1)  # tin shard runs a process on each CPU
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    frames = [_gray(jpeg) for jpeg in video.jpegs]
    still = np.zeros((video.height, video.width, 2), np.float32)  # where the search starts
    pairs = [
        _encoded(np.asarray(method.calc(before, after, still.copy())), settings.quality)
        for before, after in itertools.pairwise(frames)
    ]
    return _as_flow(video, pairs, settings)


def read_flow_folder(folder: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the flow images of a folder: an image for each axis, or x in red and y in green.

    An image for each axis has the axis in its name: flow_x_00001.jpg and flow_y_00001.jpg.

    Raises:
        BadVideoError: no image can be decoded, fewer than 90 % of them, or an axis is missing; or
            the video is to be reversed, which flow images do not allow.
    """
    if reverse:
        raise BadVideoError("flow images cannot be reversed; use shard.flow=dis")
    files = list_frames(folder)
    if not files:
        raise BadVideoError("the folder has no .jpg flow images")
    axes = [AXIS.search(file.name) for file in files]
    if all(axes):
        pictures = _pairs_of_files(files, [found[1] for found in axes if found])
    elif not any(axes):
        pictures = [(file,) for file in files]
    else:
        name = next(file.name for file, found in zip(files, axes, strict=True) if not found)
        raise BadVideoError(f"{name}: found no axis x or y in this name, but in others")
    problems: list[str] = []
    pairs: list[Pair] = []
    size = None
    source_size = None
    for names in pictures:
        try:
            planes = _planes(names)
        except ValueError as error:
            problems.append(str(error))
            continue
        source_size = source_size or planes[0].size
        size = size or stored_size(*source_size, settings.short_side)
        x, y = (plane.resize(size, Image.Resampling.BICUBIC) for plane in planes)
        pairs.append(
            (_jpeg(np.asarray(x), settings.quality), _jpeg(np.asarray(y), settings.quality))
        )
    warning = check_share(len(pairs), len(pictures), problems)
    assert size and source_size  # there is an image, as checked
    encoded = EncodedVideo(
        jpegs=[],
        width=size[0],
        height=size[1],
        source_width=source_size[0],
        source_height=source_size[1],
        source_frames=len(pairs),
        fps=0.0,
        seconds=0.0,
        warning=warning,
    )
    return _as_flow(encoded, pairs, settings)


def _as_flow(video: EncodedVideo, pairs: list[Pair], settings: ShardSettings) -> EncodedVideo:
    """Return a video whose JPEGs are those of the pairs, x before y."""
    count = len(pairs)
    kept = [pairs[i] for i in thinned(list(range(count)), settings.frame_cap)]
    jpegs = [jpeg for pair in kept for jpeg in pair]
    return replace(video, jpegs=jpegs, planes=PLANES)


def _pairs_of_files(files: Sequence[Path], axes: Sequence[str]) -> list[tuple[Path, ...]]:
    """Return the x and the y image of each flow frame, in order."""
    by_axis = {
        axis: [file for file, own in zip(files, axes, strict=True) if own == axis] for axis in "xy"
    }
    if len(by_axis["x"]) != len(by_axis["y"]):
        raise BadVideoError(
            f"the folder has {len(by_axis['x'])} flow images along x and {len(by_axis['y'])} along"
            " y; every flow frame needs both"
        )
    pairs = list(zip(by_axis["x"], by_axis["y"], strict=True))
    for x, y in pairs:
        if AXIS.sub("", x.name) != AXIS.sub("", y.name):
            raise BadVideoError(f"{x.name} and {y.name} do not belong together")
    return [*pairs]


def _planes(names: Sequence[Path]) -> tuple[Image.Image, Image.Image]:
    """Return the gray pictures along x and y of a flow frame.

    Raises:
        ValueError: an image cannot be decoded, or the two have different sizes; names the file.
    """
    if len(names) == 1:
        red, green, _ = _image(names[0], "RGB").split()
        return red, green
    x, y = (_image(name, "L") for name in names)
    if x.size != y.size:
        found = " and ".join(name.name for name in names)
        raise ValueError(f"{found} have different sizes, {x.size} and {y.size}")
    return x, y


def _image(path: Path, mode: Literal["RGB", "L"]) -> Image.Image:
    """Return a decoded image; an error names the file."""
    try:
        image = Image.open(io.BytesIO(read_bytes(path, MAX_FILE_BYTES)))
        check_pixels(*image.size)
        return image.convert(mode)
    except UnidentifiedImageError:
        raise ValueError(f"{path.name}: is not an image") from None
    except (ValueError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _encoded(flow: np.ndarray, quality: int) -> Pair:
    """Return motions ``(H, W, 2)`` in pixels as two gray JPEGs."""
    levels = np.rint((flow + BOUND) * (255 / (2 * BOUND))).clip(0, 255).astype(np.uint8)
    x, y = (levels[..., axis] for axis in range(PLANES))
    return _jpeg(x, quality), _jpeg(y, quality)


def _gray(jpeg: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[..., 0]


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    plane = np.ascontiguousarray(pixels[..., None])
    return simplejpeg.encode_jpeg(
        plane, quality=quality, colorspace="GRAY", colorsubsampling="Gray"
    )
