"""Folders of JPEG frames: stored as they are, each decoded once to check."""

import io
import re
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from configs.schema import ShardSettings
from preprocess.decode import BadVideoError
from preprocess.videos import EncodedVideo, check_share, stored_size, thinned

SUFFIXES = frozenset((".jpg", ".jpeg"))


def list_frames(folder: Path) -> list[Path]:
    """Return the frames of a folder in order: img_2.jpg before img_10.jpg."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    return sorted(files, key=lambda file: (_numbers(file.name), file.name))


def encode_folder(folder: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the frames of a folder; only what cannot be stored as it is gets encoded again.

    That is CMYK, frames turned by EXIF, frames of another size than the first, and large ones.

    Raises:
        BadVideoError: no frame can be decoded, fewer than 90 % of them, or `settings.fps` is set.
    """
    if settings.fps:
        raise BadVideoError(f"a folder of frames has no times for shard.fps={settings.fps:g}")
    files, problems, jpegs, size, source = list_frames(folder), [], [], None, None
    if not files:
        raise BadVideoError("the folder has no .jpg frames")
    for file in files:
        data = file.read_bytes()
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
            size = size or stored_size(width, height, settings.short_side)
            source = source or (width, height)
            if (width, height) != size or _needs_pillow(data):
                data, size = _encode_again(data, size, settings.quality), size
        except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            problems.append(f"{file.name}: {error}")
        else:
            jpegs.append(data)
    warning = check_share(len(jpegs), len(files), problems)
    num_frames, jpegs = len(jpegs), thinned(jpegs, settings.frame_cap)
    jpegs = jpegs[::-1] if reverse else jpegs
    return EncodedVideo(jpegs, *size, *source, num_frames, 0.0, 0.0, warning)


def _needs_pillow(data: bytes) -> bool:
    """Tell CMYK and frames that EXIF turns: decoders differ in what they make of them."""
    space = simplejpeg.decode_jpeg_header(data)[2]
    if space in ("CMYK", "YCCK"):
        return True
    return b"Exif\0" in data[:64] and Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) != 1


def _encode_again(data: bytes, size: tuple[int, int], quality: int) -> bytes:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
