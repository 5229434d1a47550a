"""Strips: the frames of a clip side by side, as pictures that a page holds itself."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

QUALITY = 70


def strip(frames: Sequence[Image.Image], height: int) -> str:
    """Return frames side by side, scaled to a height in pixels, as a data URI."""
    sizes = [(max(1, round(image.width * height / image.height)), height) for image in frames]
    joined = Image.new("RGB", (sum(width for width, _ in sizes), height))
    left = 0
    for image, size in zip(frames, sizes, strict=True):
        joined.paste(image.resize(size, Image.Resampling.BILINEAR), (left, 0))
        left += size[0]
    return data_uri(joined)


def data_uri(image: Image.Image) -> str:
    """Return an image as a JPEG in a data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
