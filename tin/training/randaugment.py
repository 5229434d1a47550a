"""RandAugment on the training device: each clip draws its own operations.

The 14 operations are those of Cubuk et al., CVPR Workshops 2020, arXiv:1909.13719. The host must
not wait to learn which clip drew which operation. Therefore similar operations are computed
together for the whole batch, with coefficients for each clip, and the result is kept for those
clips that drew one of them. B clips, N frames, pixels between 0 and 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TONES = ("brightness", "contrast", "color", "autocontrast")
OPERATIONS = (
    "identity", *GEOMETRY, *TONES, "sharpness", "solarize", "posterize", "equalize",
)  # fmt: skip
# Strengths at full magnitude, as in torchvision's RandAugment.
ROTATION_RAD = 0.5235987755982988  # 30 degrees
SHEAR = 0.3
TRANSLATION = 150 / 331  # of the width
ENHANCEMENT = 0.9
POSTERIZED_BITS = 4
GRAY = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
FILL = 0.5  # value of pixels that move in from outside
EQUALIZE_STRIDE = 4  # pixels between two that the histogram counts


def randaugment(x: Tensor, draws: Tensor, magnitude: float) -> Tensor:
    """Apply one operation to each clip, the same to all of its frames.

    Args:
        x: ``(B, N, 3, H, W)`` pixels between 0 and 1.
        draws: two numbers in [0, 1) for each clip, ``(B, 2)``: operation and sign.
        magnitude: strength of the operations, 0 to 1.
    """
    drawn = (draws[:, 0] * len(OPERATIONS)).long()
    sign = torch.where(draws[:, 1] < 0.5, -1.0, 1.0).to(x)
    chosen = {name: drawn == index for index, name in enumerate(OPERATIONS)}
    strength = sign * magnitude
    x = _moved(x, chosen, strength)
    x = _toned(x, chosen, strength)
    x = _sharpened(x, chosen, strength)
    x = _quantized(x, chosen, magnitude)
    return _equalized(x, chosen)


def gray(x: Tensor) -> Tensor:
    """Return the brightness of pixels ``(B, N, 3, H, W)``, shape ``(B, N, 1, H, W)``."""
    red, green, blue = x.unbind(2)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).unsqueeze(2)


def _moved(x: Tensor, chosen: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Rotate, shear and translate: one affine map for each clip."""
    angle = ROTATION_RAD * strength * chosen["rotate"]
    shear_x = SHEAR * strength * chosen["shear_x"]
    shear_y = SHEAR * strength * chosen["shear_y"]
    # The picture spans two units in the coordinates of `affine_grid`.
    move_x = 2 * TRANSLATION * strength * chosen["translate_x"]
    move_y = 2 * TRANSLATION * strength * chosen["translate_y"]
    # A clip drew one operation, so the coefficients of all others are zero in its map.
    rows = [
        torch.stack([angle.cos(), shear_x - angle.sin(), move_x], 1),
        torch.stack([shear_y + angle.sin(), angle.cos(), move_y], 1),
    ]
    pictures = x.flatten(1, 2)
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures - FILL, grid, align_corners=False) + FILL
    return _where(chosen, GEOMETRY, moved.view_as(x), x)


def _toned(x: Tensor, chosen: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Change brightness, contrast, color or range: one affine map of the colors for each clip."""
    brightness = gray(x)
    low = x.amin((1, 3, 4), keepdim=True)
    high = x.amax((1, 3, 4), keepdim=True)
    factor = _spread(1 + ENHANCEMENT * strength)
    contrast = _spread(chosen["contrast"])
    color = _spread(chosen["color"])
    auto = _spread(chosen["autocontrast"])
    # Brightness scales toward 0, contrast toward the mean brightness of the clip, color toward the
    # brightness of each pixel; autocontrast stretches the range of each color to 0 ... 1.
    scale = torch.where(auto, 1 / (high - low).clamp_min(1 / 255), factor)
    offset = contrast * (1 - factor) * brightness.mean((1, 2, 3, 4), keepdim=True)
    offset = torch.where(auto, -low * scale, offset)
    toned = (scale * x + color * (1 - factor) * brightness + offset).clamp(0, 1)
    return _where(chosen, TONES, toned, x)


def _sharpened(x: Tensor, chosen: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Move each pixel away from the mean of its neighbors, or toward it; keep the border."""
    kernel = x.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    smooth = x.clone()
    inner = F.conv2d(x.flatten(0, 2).unsqueeze(1), kernel / 13)
    smooth[..., 1:-1, 1:-1] = inner.view_as(smooth[..., 1:-1, 1:-1])
    sharpened = torch.lerp(smooth, x, _spread(1 + ENHANCEMENT * strength)).clamp(0, 1)
    return _where(chosen, ("sharpness",), sharpened, x)


def _quantized(x: Tensor, chosen: dict[str, Tensor], magnitude: float) -> Tensor:
    """Invert bright pixels, or keep fewer bits of each color."""
    x = torch.where(_spread(chosen["solarize"]) & (x >= 1 - magnitude), 1 - x, x)
    step = 2 ** round(POSTERIZED_BITS * magnitude)
    posterized = (255 * x).round().div(step, rounding_mode="floor") * (step / 255)
    return _where(chosen, ("posterize",), posterized, x)


def _equalized(x: Tensor, chosen: dict[str, Tensor]) -> Tensor:
    """Give each color of a clip an even histogram."""
    B, _, _, H, W = x.shape
    # Count how often each of 256 levels occurs in each color, on a coarse grid of the pixels.
    levels = (255 * x).round().long().transpose(1, 2).flatten(2)  # (B, 3, N*H*W)
    counted = levels.unflatten(2, (-1, H, W))[..., ::EQUALIZE_STRIDE, ::EQUALIZE_STRIDE].flatten(2)
    counts = x.new_zeros(B, 3, 256).scatter_add_(
        2, counted, torch.ones_like(counted, dtype=x.dtype)
    )
    # Map each level to the share of pixels up to it, stretched so that the darkest becomes 0.
    share = counts.cumsum(2) / counted.shape[2]
    darkest = share.masked_fill(share == 0, 2).amin(2, keepdim=True)
    table = ((share - darkest) / (1 - darkest).clamp_min(1e-6)).clamp(0, 1)
    equalized = table.gather(2, levels).view_as(x.transpose(1, 2)).transpose(1, 2)
    return _where(chosen, ("equalize",), equalized, x)


def _where(chosen: dict[str, Tensor], names: tuple[str, ...], changed: Tensor, x: Tensor) -> Tensor:
    """Return `changed` for the clips that drew one of the operations `names`, else `x`."""
    return torch.where(_spread(torch.stack([chosen[name] for name in names]).any(0)), changed, x)


def _spread(values: Tensor) -> Tensor:
    """Return one number per clip ``(B,)`` in a shape that broadcasts to ``(B, N, 3, H, W)``."""
    return values[:, None, None, None, None]
