"""RandAugment on the training device: each clip draws its own operations.

The operations are those of Cubuk et al., CVPR Workshops 2020, arXiv:1909.13719, or those of
MMAction2. The host must not wait to learn which clip drew which operation. Therefore similar
operations are computed together for the whole batch, with coefficients for each clip, and the
result is kept for those clips that drew one of them. B clips, N frames, pixels between 0 and 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TONES = ("brightness", "contrast", "color", "autocontrast")
ROTATION_RAD = 0.5235987755982988  # 30 degrees, at full magnitude
SHEAR = 0.3  # at full magnitude
GRAY = (0.299, 0.587, 0.114)  # weights of red, green and blue, ITU-R BT.601
LEVELS = 256  # values of a pixel


class Policy(NamedTuple):
    """Which operations there are, and how strong they are at a magnitude."""

    operations: tuple[str, ...]
    numbers: int
    """Random numbers for each operation of a clip: operation, sign, and two for a place."""
    repeats: bool
    """Whether a clip may draw an operation twice. If not, it applies them in the listed order."""
    translation: float
    """Share of the width at full magnitude."""
    fill: float
    """Value of pixels that move in from outside."""
    signed_tones: bool
    """Whether a tone changes up or down by 0.9 of the magnitude; else its factor is 0.1 + 1.8 of
    the magnitude."""

    def factor(self, strength: Tensor) -> Tensor:
        """Return each clip's factor ``(B,)`` on brightness, contrast, color or sharpness."""
        return 1 + 0.9 * strength if self.signed_tones else 0.1 + 1.8 * strength.abs()

    def solarized_from(self, magnitude: float) -> float:
        """Return the value from which pixels are inverted."""
        return 1 - magnitude if self.signed_tones else 256 * magnitude / 255

    def removed_bits(self, magnitude: float) -> int:
        """Return how many of the eight bits of a color are set to zero."""
        return round(4 * magnitude) if self.signed_tones else 8 - max(1, int(4 * magnitude))


# Strengths as in torchvision's RandAugment.
PAPER = Policy(
    ("identity", *GEOMETRY, *TONES, "sharpness", "solarize", "posterize", "equalize"),
    numbers=2,
    repeats=True,
    translation=150 / 331,
    fill=0.5,
    signed_tones=True,
)
# The operations and strengths of MMAction2 0.24.1, which are imgaug's. At magnitude 9 they are:
# translate 0.18, posterize to 3 bits, solarize from 230, tones by 1.72, a gray square of 0.18.
MMACTION2 = Policy(
    (
        "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "posterize", "solarize",
        "color", "contrast", "brightness", "sharpness", "autocontrast", "equalize", "invert",
        "cutout",
    ),
    numbers=4,
    repeats=False,
    translation=0.2,
    fill=0.0,
    signed_tones=False,
)  # fmt: skip
POLICIES = {"paper": PAPER, "mmaction2": MMACTION2}
CUTOUT_SIDE = 0.2  # of the shorter side, at full magnitude
CUTOUT_FILL = 128 / 255


def randaugment(x: Tensor, draws: Tensor, magnitude: float, policy: Policy = PAPER) -> Tensor:
    """Apply operations to each clip, the same to all of its frames.

    Args:
        x: ``(B, N, 3, H, W)`` pixels between 0 and 1.
        draws: ``(B, operations, policy.numbers)`` random numbers in [0, 1).
        magnitude: strength of the operations, 0 to 1.
        policy: the operations.
    """
    drawn = drawn_operations(draws[..., 0], policy)
    for operation, numbers in zip(drawn.unbind(1), draws.unbind(1), strict=True):
        sign = torch.where(numbers[:, 1] < 0.5, -1.0, 1.0).to(x)
        chosen = {name: operation == index for index, name in enumerate(policy.operations)}
        strength = sign * magnitude
        x = _moved(x, chosen, strength, policy)
        x = _toned(x, chosen, policy.factor(strength))
        x = _sharpened(x, chosen, policy.factor(strength))
        x = _quantized(x, chosen, magnitude, policy)
        x = _equalized(x, chosen)
        if "cutout" in chosen:
            x = _cut_out(x, chosen, CUTOUT_SIDE * magnitude, numbers[:, 2:])
    return x


def drawn_operations(draws: Tensor, policy: Policy) -> Tensor:
    """Return which operations clips drew, ``(B, operations)`` indices, from numbers in [0, 1).

    Without repetition, the n-th number chooses among the operations that are left.
    """
    num_operations = len(policy.operations)
    if policy.repeats:
        return (draws * num_operations).long()
    drawn = draws.new_zeros(len(draws), 0, dtype=torch.int64)
    for number, draw in enumerate(draws.unbind(1)):
        operation = (draw * (num_operations - number)).long()
        # Step over those that were drawn before, in ascending order.
        for earlier in drawn.unbind(1):
            operation = operation + (operation >= earlier)
        drawn = torch.cat([drawn, operation[:, None]], 1).sort(1).values
    return drawn


def gray(x: Tensor) -> Tensor:
    """Return the brightness of pixels ``(B, N, 3, H, W)``, shape ``(B, N, 1, H, W)``."""
    red, green, blue = x.unbind(2)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue).unsqueeze(2)


def _moved(x: Tensor, chosen: dict[str, Tensor], strength: Tensor, policy: Policy) -> Tensor:
    """Rotate, shear and translate: one affine map for each clip."""
    angle = ROTATION_RAD * strength * chosen["rotate"]
    shear_x = SHEAR * strength * chosen["shear_x"]
    shear_y = SHEAR * strength * chosen["shear_y"]
    # The picture spans two units in the coordinates of `affine_grid`.
    move_x = 2 * policy.translation * strength * chosen["translate_x"]
    move_y = 2 * policy.translation * strength * chosen["translate_y"]
    # A clip drew one operation, so the coefficients of all others are zero in its map.
    rows = [
        torch.stack([angle.cos(), shear_x - angle.sin(), move_x], 1),
        torch.stack([shear_y + angle.sin(), angle.cos(), move_y], 1),
    ]
    pictures = x.flatten(1, 2)
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures - policy.fill, grid, align_corners=False) + policy.fill
    return _where(chosen, GEOMETRY, moved.view_as(x), x)


def _toned(x: Tensor, chosen: dict[str, Tensor], factors: Tensor) -> Tensor:
    """Change brightness, contrast, color or range: one affine map of the colors for each clip."""
    brightness = gray(x)
    low = x.amin((1, 3, 4), keepdim=True)
    high = x.amax((1, 3, 4), keepdim=True)
    factor = _spread(factors)
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


def _sharpened(x: Tensor, chosen: dict[str, Tensor], factors: Tensor) -> Tensor:
    """Move each pixel away from the mean of its neighbors, or toward it; keep the border."""
    kernel = x.new_ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    smooth = x.clone()
    inner = F.conv2d(x.flatten(0, 2).unsqueeze(1), kernel / 13)
    smooth[..., 1:-1, 1:-1] = inner.view_as(smooth[..., 1:-1, 1:-1])
    sharpened = torch.lerp(smooth, x, _spread(factors)).clamp(0, 1)
    return _where(chosen, ("sharpness",), sharpened, x)


def _quantized(x: Tensor, chosen: dict[str, Tensor], magnitude: float, policy: Policy) -> Tensor:
    """Invert all pixels or the bright ones, or keep fewer bits of each color."""
    inverted = _spread(chosen["solarize"]) & (x >= policy.solarized_from(magnitude))
    if "invert" in chosen:
        inverted = inverted | _spread(chosen["invert"])
    x = torch.where(inverted, 1 - x, x)
    step = 2 ** policy.removed_bits(magnitude)
    posterized = (255 * x).round().div(step, rounding_mode="floor") * (step / 255)
    return _where(chosen, ("posterize",), posterized, x)


def _equalized(x: Tensor, chosen: dict[str, Tensor]) -> Tensor:
    """Give each color of each frame an even histogram, as Pillow's ImageOps.equalize does."""
    # Count how often each level occurs in each color of each frame.
    levels = (255 * x).round().long().clamp(0, LEVELS - 1).flatten(3)  # (B, N, 3, H*W)
    counts = levels.new_zeros(*levels.shape[:3], LEVELS)
    counts.scatter_add_(3, levels, torch.ones_like(levels))
    # The pixels below the highest level share 255 steps evenly. A frame with too few of them to
    # make a step keeps its levels.
    level = torch.arange(LEVELS, device=x.device)
    highest = torch.where(counts > 0, level, 0).amax(3, keepdim=True)
    step = (levels.shape[3] - counts.gather(3, highest)) // (LEVELS - 1)
    below = counts.cumsum(3) - counts
    table = (step // 2 + below) // step.clamp_min(1)
    table = torch.where(step > 0, table.clamp(max=LEVELS - 1), level)
    equalized = (table.gather(3, levels).to(x.dtype) / (LEVELS - 1)).view_as(x)
    return _where(chosen, ("equalize",), equalized, x)


def _cut_out(x: Tensor, chosen: dict[str, Tensor], share: float, center: Tensor) -> Tensor:
    """Cover a square of `share` of the shorter side, around `center` ``(B, 2)``, with gray."""
    half = share * min(x.shape[-2:]) / 2
    inside = []
    for size, middle in zip(x.shape[-2:], center.unbind(1), strict=True):
        position = torch.arange(size, device=x.device) + 0.5
        inside.append((position - size * middle[:, None]).abs() < half)
    square = inside[0][:, :, None] & inside[1][:, None, :]
    return torch.where(_spread(chosen["cutout"]) & square[:, None, None], CUTOUT_FILL, x)


def _where(chosen: dict[str, Tensor], names: tuple[str, ...], changed: Tensor, x: Tensor) -> Tensor:
    """Return `changed` for the clips that drew one of the operations `names`, else `x`."""
    return torch.where(_spread(torch.stack([chosen[name] for name in names]).any(0)), changed, x)


def _spread(values: Tensor) -> Tensor:
    """Return one number per clip ``(B,)`` in a shape that broadcasts to ``(B, N, 3, H, W)``."""
    return values[:, None, None, None, None]
