"""Random changes of training clips that run on the training device.

They depend on (seed, epoch, clip) alone, not on the number of ranks or the place in the batch. One
thing is different: mixup and cutmix mix a clip with the clip before it on the same rank. How much
they mix, and where, still depends on (seed, epoch, clip) alone.
"""

import numpy as np
import torch
from torch import Tensor

from configs.schema import Config
from pipeline import random_numbers
from tin.models.clip_input import from_pixels, normalized, to_pixels
from tin.training.device_random import JITTER, MIX, RANDAUGMENT, beta, uniforms
from tin.training.randaugment import POLICIES, gray, randaugment


def augment(
    x: Tensor,
    labels: Tensor,
    clips: Tensor,
    config: Config,
    epoch: int,
    num_classes: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Return the clips and targets of a training pass, changed as section `augment` says.

    Color jitter comes first, then RandAugment, then mixup (Zhang et al., ICLR 2018,
    arXiv:1710.09412) or cutmix (Yun et al., ICCV 2019, arXiv:1905.04899). All frames of a clip
    change in the same way. The host never waits for the device.

    Args:
        x: uint8 ``(B, T, L, H, W, C)``, as the loader gives it.
        labels: ``(B,)`` int64, or ``(B, K)`` float for several labels a clip.
        clips: ``(B,)`` int64, on the device of `x`.
        config: sections `augment` and `train`.
        epoch: number of the epoch.
        num_classes: K.
        step: number of the pass; where both are on, it chooses mixup or cutmix.

    Returns:
        The input of the network ``(B, T, L*C, H, W)``, and targets: `labels`, or ``(B, K)`` float
        shares of the classes if clips are mixed.
    """
    if config.augment.color_jitter or config.augment.randaugment_ops:
        x = from_pixels(recolored(to_pixels(x), clips, config, epoch))
    else:
        x = normalized(x)
    return mixed(x, labels, clips, config, epoch, num_classes, step)


def mixed(
    x: Tensor,
    labels: Tensor,
    clips: Tensor,
    config: Config,
    epoch: int,
    num_classes: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Do mixup and cutmix as `augment` does; x is the input of the network."""
    settings = config.augment
    seed = config.train.seed
    if not (settings.mixup or settings.cutmix):
        return x, labels
    # Mixed clips have several labels: turn class numbers into rows of zeros and ones.
    targets = labels
    if labels.dim() == 1:
        targets = (labels[:, None] == torch.arange(num_classes, device=x.device)).to(x.dtype)
    numbers = uniforms(seed, MIX, epoch, clips, 3)
    # `share` of each clip and its target stays; the rest comes from the clip before it.
    if not settings.cutmix or (settings.mixup and _even(seed, epoch, step)):
        share = beta(numbers[:, 0], settings.mixup).to(x.dtype)
        x = torch.lerp(x.roll(1, 0), x, share[:, None, None, None, None])
    else:
        area = 1 - beta(numbers[:, 0], settings.cutmix)
        H, W = x.shape[-2:]
        inside = _box(area, numbers[:, 1:], H, W)
        x = torch.where(inside[:, None, None], x.roll(1, 0), x)
        share = 1 - inside.to(x.dtype).mean((1, 2))
    return x, torch.lerp(targets.roll(1, 0), targets, share[:, None])


def recolored(x: Tensor, clips: Tensor, config: Config, epoch: int) -> Tensor:
    """Return pixels in [0, 1], ``(B, T, L, 3, H, W)``, with the colors that training gives them."""
    settings = config.augment
    seed = config.train.seed
    pixels = x.flatten(1, 2)
    if settings.color_jitter:
        numbers = uniforms(seed, JITTER, epoch, clips, 3).to(x.dtype)
        factors = (1 + settings.color_jitter * (2 * numbers - 1)).clamp_min(0)
        pixels = _jittered(pixels, factors)
    if settings.randaugment_ops:
        policy = POLICIES[settings.randaugment_policy]
        count = settings.randaugment_ops * policy.numbers
        numbers = uniforms(seed, RANDAUGMENT, epoch, clips, count)
        draws = numbers.unflatten(1, (-1, policy.numbers))
        pixels = randaugment(pixels, draws, settings.randaugment_magnitude / 10, policy)
    return pixels.reshape(x.shape)


def _jittered(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, contrast and saturation, in this order, by three factors a clip."""
    brightness, contrast, saturation = factors[:, :, None, None, None, None].unbind(1)
    pixels = (brightness * pixels).clamp(0, 1)
    middle = gray(pixels).mean((1, 2, 3, 4), keepdim=True)
    pixels = torch.lerp(middle, pixels, contrast).clamp(0, 1)
    return torch.lerp(gray(pixels), pixels, saturation).clamp(0, 1)


def _box(area: Tensor, center: Tensor, H: int, W: int) -> Tensor:
    """Return which pixels ``(B, H, W)`` lie in a box of `area` ``(B,)`` around `center` ``(B, 2)``.

    Area and center are shares of the picture; the part of a box outside the picture is cut off.
    """
    half = area.sqrt() / 2
    sides = []
    for size, middle in ((H, center[:, 0]), (W, center[:, 1])):
        first = ((middle - half).clamp(0, 1) * size).round()
        last = ((middle + half).clamp(0, 1) * size).round()
        position = torch.arange(size, device=area.device)
        sides.append((position >= first[:, None]) & (position < last[:, None]))
    return sides[0][:, :, None] & sides[1][:, None, :]


def _even(seed: int, epoch: int, step: int) -> bool:
    """Return a fair draw for a step, the same on all ranks."""
    return random_numbers.uniforms(seed, MIX, epoch, np.array([~step]), 1).item() < 0.5
