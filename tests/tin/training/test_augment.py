"""Augmentation on the training device: what it depends on, and what each operation does."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from configs.load import ConfigError, load
from pipeline import random_numbers
from tin.models.clip_input import normalized
from tin.training import device_random
from tin.training.augment import augment, mixed
from tin.training.randaugment import MMACTION2, PAPER, drawn_operations, randaugment

OPERATIONS = PAPER.operations
CLIPS = torch.tensor([7, 123_456_789, 0, 40])
LABELS = torch.tensor([0, 1, 2, 4])
COLORS = ["augment.color_jitter=0.4", "augment.randaugment_ops=2"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def changed(
    x: Tensor,
    settings: Sequence[str],
    clips: Tensor = CLIPS,
    labels: Tensor = LABELS,
    epoch: int = 1,
    step: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return clips and targets after augmentation with `settings`, for five classes.

    `x` is a batch of the loader, or the input of a network, which can only be mixed.
    """
    function = augment if x.dtype == torch.uint8 else mixed
    return function(x, labels, clips, load(None, settings), epoch, 5, step)


def clip_batch(num_frames: int = 3, size: int = 24) -> Tensor:
    return torch.randint(256, (4, num_frames, 1, size, size, 3), dtype=torch.uint8)


# Random numbers.


@pytest.mark.parametrize("device", DEVICES)
def test_random_numbers_on_the_device_equal_those_of_the_pipeline(device):
    clips = torch.tensor([0, 1, 2**40 + 17, -1], device=device)
    found = device_random.uniforms(3, device_random.MIX, 2, clips, 5).cpu().numpy()
    assert np.array_equal(
        found, random_numbers.uniforms(3, device_random.MIX, 2, clips.cpu().numpy(), 5)
    )
    assert found.min() >= 0
    assert found.max() < 1


def test_streams_of_augmentation_differ_from_those_of_the_pipeline():
    names = ("ORDER", "SHARDS", "FRAMES", "CROPS", "FLIPS")
    taken = {getattr(random_numbers, name) for name in names}
    assert not {device_random.MIX, device_random.JITTER, device_random.RANDAUGMENT} & taken


@pytest.mark.parametrize(
    "alpha, distribution",
    [
        (1.0, lambda x: x),
        (2.0, lambda x: 3 * x**2 - 2 * x**3),
        (0.5, lambda x: 2 / math.pi * np.arcsin(np.sqrt(x))),
    ],
)
def test_beta_inverts_its_distribution(alpha, distribution):
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    found = device_random.beta(uniform, alpha).numpy()
    np.testing.assert_allclose(distribution(found), uniform, atol=2e-5)


def test_beta_of_a_small_alpha_has_its_mean_and_variance():
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    found = device_random.beta(uniform, 0.2)
    assert found.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert found.var().item() == pytest.approx(0.25 / (2 * 0.2 + 1), rel=1e-3)  # textbook


# What augmentation depends on.


def test_without_settings_clips_are_only_normalized():
    x = clip_batch()
    found, targets = changed(x, [])
    assert torch.equal(found, normalized(x))
    assert targets is LABELS


@pytest.mark.parametrize("settings", [COLORS[:1], COLORS[1:], COLORS])
def test_colors_depend_on_seed_epoch_and_clip_alone(settings):
    x = clip_batch()
    whole, _ = changed(x, settings)
    assert not torch.allclose(whole, normalized(x))
    again, _ = changed(x, settings, step=3)
    assert torch.equal(whole, again)
    order = torch.tensor([2, 0])  # the clips of another rank, in another order
    part, _ = changed(x[order], settings, CLIPS[order], LABELS[order])
    torch.testing.assert_close(part, whole[order], rtol=1e-5, atol=1e-5)
    other_epoch, _ = changed(x, settings, epoch=2)
    other_seed, _ = changed(x, [*settings, "train.seed=1"])
    assert not torch.allclose(whole, other_epoch)
    assert not torch.allclose(whole, other_seed)


@pytest.mark.parametrize("settings", [COLORS, ["augment.mixup=1.0"], ["augment.cutmix=1.0"]])
def test_all_frames_of_a_clip_change_in_the_same_way(settings):
    still = clip_batch(num_frames=1).expand(-1, 4, -1, -1, -1, -1)
    for epoch in range(4):
        found, _ = changed(still, settings, epoch=epoch)
        torch.testing.assert_close(found, found[:, :1].expand_as(found))


def test_stacked_frames_change_like_single_frames():
    x = clip_batch(num_frames=4)
    frames, _ = changed(x, COLORS)
    stacked, _ = changed(x.reshape(4, 2, 2, 24, 24, 3), COLORS)
    torch.testing.assert_close(stacked.reshape_as(frames), frames)


# Mixing.


def test_mixup_mixes_clips_and_labels_in_the_same_ratio():
    x = torch.eye(4)[:, None, :, None, None].expand(4, 2, 4, 8, 8)[:, :, :3].clone()
    x, targets = changed(x, ["augment.mixup=0.8"], labels=torch.arange(4))
    assert targets.shape == (4, 5)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    torch.testing.assert_close(x[:, 1, :, 2, 5], targets[:, :3])
    assert all(targets[i, i] + targets[i, (i - 1) % 4] == pytest.approx(1) for i in range(4))
    assert (targets > 0).sum() == 8


def test_cutmix_pastes_a_box_whose_area_is_the_share_of_its_label():
    x = torch.arange(4.0)[:, None, None, None, None].expand(4, 2, 3, 20, 30).clone()
    x, targets = changed(x, ["augment.cutmix=1.0"], labels=torch.arange(4), epoch=5)
    for i in range(4):
        pasted = x[i, 1, 2] == (i - 1) % 4
        assert torch.all(pasted | (x[i, 1, 2] == i))
        assert targets[i, (i - 1) % 4].item() == pytest.approx(
            pasted.float().mean().item(), abs=1e-6
        )
        rows = pasted.any(1)
        columns = pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns[None, :])  # a box
        for side in (rows, columns):
            assert (side.int().diff().abs().sum() <= 2) or not side.any()
    assert targets.sum().item() == pytest.approx(4)


def test_the_share_of_a_clip_does_not_depend_on_its_partner():
    x = clip_batch()
    _, targets = changed(x, ["augment.mixup=1.0"])
    order = torch.tensor([3, 1])
    _, part = changed(x[order], ["augment.mixup=1.0"], CLIPS[order], LABELS[order])
    for row, i in enumerate(order.tolist()):
        torch.testing.assert_close(part[row, LABELS[i]], targets[i, LABELS[i]])


def test_with_mixup_and_cutmix_each_step_draws_one_of_them():
    x = torch.zeros(2, 1, 3, 16, 16)
    x[1] = 1
    settings = ["augment.mixup=1.0", "augment.cutmix=1.0"]
    is_mixup = []  # cutmix keeps the two values of the pixels, mixup makes others
    for step in range(200):
        mixed, _ = changed(x, settings, CLIPS[:2], LABELS[:2], step=step)
        is_mixup.append(bool(((mixed > 0) & (mixed < 1)).any()))
    assert 70 < sum(is_mixup) < 130


def test_several_labels_are_mixed():
    labels = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]])
    _, targets = changed(clip_batch(), ["augment.mixup=1.0"], labels=labels)
    share = targets[1, 3].item()
    torch.testing.assert_close(targets[1], torch.tensor([1 - share, 1 - share, 0, share, 0]))


def test_a_clip_without_a_label_adds_no_share():
    labels = torch.tensor([0, -1, 2, 4])
    _, targets = changed(clip_batch(), ["augment.mixup=1.0"], labels=labels)
    assert targets[1, 0] == pytest.approx(targets[1].sum().item())


# RandAugment, one operation after the other; pixels are between 0 and 1.


def drawn(name: str, sign: int = 1) -> tuple[float, float]:
    """Return the two random numbers that choose an operation and its sign."""
    return (OPERATIONS.index(name) + 0.5) / len(OPERATIONS), 0.75 if sign > 0 else 0.25


def after(name: str, x: Tensor, magnitude: float = 1.0, sign: int = 1) -> Tensor:
    """Return one clip after the operation `name`."""
    return randaugment(x, torch.tensor([[drawn(name, sign)]]), magnitude)


def after_mmaction2(name: str, x: Tensor, sign: int = 1, place: float = 0.5) -> Tensor:
    """Return one clip after the operation `name` of MMAction2, at its magnitude 9 of 10."""
    names = MMACTION2.operations
    numbers = ((names.index(name) + 0.5) / len(names), 0.75 if sign > 0 else 0.25, place, place)
    return randaugment(x, torch.tensor([[numbers]]), 0.9, MMACTION2)


def picture(values: list[list[float]]) -> Tensor:
    """Return a clip of one gray frame, with four pixels for each of `values`."""
    pixels = torch.tensor(values, dtype=torch.float32).repeat_interleave(2, 0)
    return pixels.repeat_interleave(2, 1)[None, None, None].expand(1, 1, 3, -1, -1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_shape_and_range(name):
    x = torch.rand(1, 2, 3, 16, 16)
    for sign in (1, -1):
        y = after(name, x, 0.9, sign)
        assert y.shape == x.shape
        assert y.min() >= 0
        assert y.max() <= 1 + 1e-6
        if name == "identity":
            assert torch.equal(y, x)
        else:
            assert not torch.allclose(y, x, atol=1e-3)


@pytest.mark.parametrize("name", set(OPERATIONS) - {"autocontrast", "equalize"})
def test_an_operation_of_magnitude_zero_changes_nothing(name):
    x = (torch.rand(1, 2, 3, 16, 16) * 254).round() / 255  # values of one byte, without 255
    torch.testing.assert_close(after(name, x, 0.0), x)


def test_each_clip_has_its_own_operation():
    x = torch.rand(3, 2, 3, 8, 8)
    names = ["solarize", "identity", "brightness"]
    together = randaugment(x, torch.tensor([[drawn(name)] for name in names]), 0.5)
    for i, name in enumerate(names):
        torch.testing.assert_close(together[i : i + 1], after(name, x[i : i + 1], 0.5))


def test_translation_moves_by_a_share_of_the_width():
    x = torch.full((1, 1, 3, 331, 331), 0.5)
    x[..., 100:110, 200:210] = 1.0
    y = after("translate_x", x, 1.0, sign=1)[0, 0, 0]  # samples 150 pixels to the right
    assert y[100:110, 50:60].min() == pytest.approx(1.0, abs=1e-3)
    assert (y > 0.6).sum() == 100
    y = after("translate_y", x, 0.5, sign=-1)[0, 0, 0]
    assert y[175:185, 200:210].min() == pytest.approx(1.0, abs=1e-3)


def test_rotation_turns_by_30_degrees():
    x = torch.full((1, 1, 3, 101, 101), 0.5)
    x[..., 49:52, 89:92] = 1.0  # 40 pixels to the right of the center
    y = after("rotate", x, 1.0)[0, 0, 0]  # 30 degrees
    row, column = np.unravel_index(int(y.argmax()), y.shape)
    assert abs(row - 50) == pytest.approx(40 * math.sin(math.pi / 6), abs=2)
    assert column - 50 == pytest.approx(40 * math.cos(math.pi / 6), abs=2)


def test_pixels_that_move_in_are_gray():
    assert after("translate_x", torch.ones(1, 1, 3, 20, 20), 1.0)[0, 0, 0, 0, -1] == 0.5


def test_brightness_contrast_and_color_equal_values_computed_by_hand():
    x = torch.tensor([[0.2, 0.4, 0.6], [0.4, 0.4, 0.4]])  # two pixels
    x = x.T[None, None, :, None, :].repeat(1, 1, 1, 4, 2)
    bright = after("brightness", x, 0.5)  # times 1.45
    torch.testing.assert_close(bright, 1.45 * x)
    lightness = [0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6, 0.4]
    middle = sum(lightness) / 2
    torch.testing.assert_close(after("contrast", x, 0.5), middle + 1.45 * (x - middle))
    own = torch.tensor(lightness * 2)[None, None, None, None]
    torch.testing.assert_close(after("color", x, 0.5, sign=-1), own + 0.55 * (x - own))


def test_autocontrast_stretches_each_color_to_the_whole_range():
    x = 0.3 + 0.2 * torch.rand(1, 2, 3, 8, 8)
    y = after("autocontrast", x)
    for color in range(3):
        assert y[:, :, color].min() == pytest.approx(0, abs=1e-6)
        assert y[:, :, color].max() == pytest.approx(1, abs=1e-6)


def test_solarize_inverts_bright_pixels():
    x = picture([[0.1, 0.4], [0.5, 0.9]])
    torch.testing.assert_close(after("solarize", x, 0.5), picture([[0.1, 0.4], [0.5, 0.1]]))


def test_posterize_keeps_the_upper_bits():
    x = picture([[0.0, 15.0], [16.0, 255.0]]) / 255
    expected = picture([[0.0, 0.0], [16.0, 240.0]]) / 255
    torch.testing.assert_close(after("posterize", x, 1.0), expected)


def test_sharpness_moves_away_from_the_mean_of_the_neighbors():
    x = torch.full((1, 1, 3, 3, 3), 0.4)
    x[..., 1, 1] = 0.53
    smooth = (8 * 0.4 + 5 * 0.53) / 13
    expected = x.clone()
    expected[..., 1, 1] = smooth + 1.9 * (0.53 - smooth)
    torch.testing.assert_close(after("sharpness", x, 1.0), expected)


@pytest.mark.parametrize("kind", ["random", "dark", "two levels", "one level", "few pixels"])
def test_equalize_equals_that_of_pillow(kind):
    draw = np.random.default_rng(1)
    frames = {
        "random": draw.integers(0, 256, (2, 40, 30, 3)),
        "dark": draw.integers(0, 16, (2, 40, 30, 3)) ** 2,
        "two levels": 200 * draw.integers(0, 2, (2, 40, 30, 3)),
        "one level": np.full((2, 40, 30, 3), 77),
        "few pixels": draw.integers(0, 256, (2, 3, 4, 3)),
    }[kind].astype(np.uint8)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
    found = (255 * after("equalize", x)[0]).permute(0, 2, 3, 1)
    expected = [np.asarray(ImageOps.equalize(Image.fromarray(frame))) for frame in frames]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-4)


def test_equalize_makes_all_levels_equally_frequent():
    ramp = torch.linspace(0, 1, 64) ** 3
    x = ramp[None, None, None, None].expand(1, 1, 3, 64, 64).transpose(3, 4).clone()
    x = (x * 255).round() / 255
    y = after("equalize", x)[0, 0, 0, :, 0]
    assert torch.all(y.diff() >= 0)
    assert y[0] == 0
    assert y[-1] == 1
    assert y.mean().item() == pytest.approx(0.5, abs=0.1)  # the mean of x**3 is a quarter
    flat = torch.full((1, 1, 3, 8, 8), 0.2)
    assert after("equalize", flat).isfinite().all()


# The operations of MMAction2, at the strengths of its recipes.


def test_mmaction2_moves_by_other_shares_and_fills_with_black():
    x = torch.full((1, 1, 3, 100, 100), 0.5)
    x[..., 40:50, 60:70] = 1.0
    y = after_mmaction2("translate_x", x)[0, 0, 0]  # 18 pixels
    assert y[40:50, 42:52].min() == pytest.approx(1.0, abs=1e-3)
    assert y[:, 82:].max() == pytest.approx(0, abs=1e-6)
    y = after_mmaction2("translate_y", x, sign=-1)[0, 0, 0]
    assert y[58:68, 60:70].min() == pytest.approx(1.0, abs=1e-3)
    assert y[:18].max() == pytest.approx(0, abs=1e-6)


def test_mmaction2_solarizes_from_230_and_posterizes_to_three_bits():
    x = picture([[0.0, 230.0], [231.0, 255.0]]) / 255
    torch.testing.assert_close(
        after_mmaction2("solarize", x), picture([[0.0, 230.0], [24.0, 0.0]]) / 255
    )
    x = picture([[31.0, 32.0], [100.0, 255.0]]) / 255
    torch.testing.assert_close(
        after_mmaction2("posterize", x), picture([[0.0, 32.0], [96.0, 224.0]]) / 255
    )


def test_mmaction2_enhances_by_one_factor():
    x = 0.1 + 0.4 * torch.rand(1, 2, 3, 8, 8)
    for sign in (1, -1):
        torch.testing.assert_close(after_mmaction2("brightness", x, sign), 1.72 * x)


def test_mmaction2_inverts_and_covers_a_square():
    x = torch.rand(1, 2, 3, 100, 100)
    torch.testing.assert_close(after_mmaction2("invert", x), 1 - x)
    covered = after_mmaction2("cutout", x)
    torch.testing.assert_close(covered[..., 41:59, 41:59].unique(), torch.tensor([128 / 255]))
    assert (covered != x).any(2).sum() == 2 * 18 * 18
    corner = after_mmaction2("cutout", x, place=0.0)
    assert (corner != x).any(2).sum() == 2 * 9 * 9


def test_mmaction2_draws_each_pair_of_different_operations_equally_often():
    grid = (torch.arange(210) + 0.5) / 210
    draws = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), 2).flatten(0, 1)
    pairs, counts = drawn_operations(draws, MMACTION2).unique(dim=0, return_counts=True)
    assert len(pairs) == 15 * 14 / 2
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert counts.unique().tolist() == [210 * 210 / 105]


def test_the_paper_draws_operations_with_repetition():
    draws = torch.tensor([[0.0, 0.0], [0.99, 0.5]])
    assert drawn_operations(draws, PAPER).tolist() == [[0, 0], [13, 7]]


def test_more_operations_than_mmaction2_has_are_rejected():
    settings = ["augment.randaugment_policy=mmaction2", "augment.randaugment_ops=16"]
    with pytest.raises(ConfigError, match="more than the 15 operations"):
        load(None, settings)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [COLORS, ["augment.mixup=0.2"], ["augment.cutmix=1.0"]])
def test_a_gpu_gives_the_results_of_a_cpu_and_the_host_never_waits(settings):
    x = clip_batch()
    expected, shares = changed(x, settings)
    there = [value.cuda() for value in (x, CLIPS, LABELS)]
    changed(there[0], settings, *there[1:])  # loads tables and kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, targets = changed(there[0], settings, *there[1:])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(targets.cpu(), shares)
    # values that differ by rounding may lie on different sides of a threshold
    assert (found.cpu() - expected).abs().mean() < 2e-3
