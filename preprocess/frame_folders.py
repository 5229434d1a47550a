"""Reads folders of JPEG frames, which are stored unchanged after each has been decoded once."""

import io
import re
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from configs.schema import ShardSettings
from configs.small_files import read_bytes
from preprocess.decode import BadVideoError, check_pixels
from preprocess.videos import EncodedVideo, check_share, stored_size, thinned

SUFFIXES = frozenset((".jpg", ".jpeg"))
MAX_FILE_BYTES = 256 << 20
"""Largest file of a frame: 4 bytes for each of `preprocess.decode.MAX_PIXELS`."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a frame is turned; 1 means upright."""


def list_frames(folder: Path) -> list[Path]:
    """Return the frames of a folder in order: img_2.jpg before img_10.jpg."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    return sorted(files, key=lambda file: (_numbers(file.name), file.name))


def encode_folder(folder: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the frames of a folder; encode a frame again only if it cannot be stored unchanged.

    Those are CMYK frames, frames that EXIF turns, frames of another size than the first, and
    frames whose short side exceeds `settings.short_side`.

    Raises:
        BadVideoError: no frame can be decoded, fewer than 90 % of them, or `settings.fps` is set.
    """
    if settings.fps:
        raise BadVideoError(
            f"a folder of frames has no timestamps, so shard.fps={settings.fps:g} cannot be applied"
        )
    files = list_frames(folder)
    if not files:
        raise BadVideoError("the folder has no .jpg frames")
    problems: list[str] = []
    jpegs: list[bytes] = []
    source_size = None
    size = None
    for file in files:
        try:
            data = read_bytes(file, MAX_FILE_BYTES)  # rejects a FIFO or a link to a device
            frame_size = _checked_size(data)
            # The first frame that decodes determines the size of all frames.
            source_size = source_size or frame_size
            size = size or stored_size(*frame_size, settings.short_side)
            if frame_size != size or _needs_pillow(data):
                data = _encode_again(data, size, settings.quality)
        except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            problems.append(f"{file.name}: {error}")
        else:
            jpegs.append(data)
    warning = check_share(len(jpegs), len(files), problems)
    assert size and source_size  # there is a frame, as checked
    kept = thinned(jpegs, settings.frame_cap)
    return EncodedVideo(
        jpegs=kept[::-1] if reverse else kept,
        width=size[0],
        height=size[1],
        source_width=source_size[0],
        source_height=source_size[1],
        source_frames=len(jpegs),
        fps=0.0,
        seconds=0.0,
        warning=warning,
    )


def _checked_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG, which is decoded once to check that this is possible."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    check_pixels(width, height)
    simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    return width, height


def _needs_pillow(data: bytes) -> bool:
    """Return whether a JPEG is CMYK or turned by EXIF, which decoders treat differently."""
    color_space = simplejpeg.decode_jpeg_header(data)[2]
    if color_space in ("CMYK", "YCCK"):
        return True
    # Open the image with Pillow only if its first bytes announce EXIF data, which is rare.
    if b"Exif\0" not in data[:64]:
        return False
    return Image.open(io.BytesIO(data)).getexif().get(ORIENTATION, 1) != 1


def _encode_again(data: bytes, size: tuple[int, int], quality: int) -> bytes:
    """Return a frame as an upright RGB image of the given size."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
