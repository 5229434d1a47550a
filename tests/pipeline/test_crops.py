"""Crops of a frame, compared with the whole table of the reference and with arithmetic."""

import json
import random

import numpy as np
import pytest

from configs.schema import AugmentSettings
from pipeline.crops import scaled_sizes, source_regions, training_boxes, view_corners


def read_table(shared) -> list[dict]:
    return json.loads((shared / "reference/tables/crops.json").read_text())


def test_multi_scale_boxes_equal_the_table(shared):
    checked = 0
    for entry in read_table(shared):
        width, height = (np.array([side]) for side in entry["image_wh"])
        multi = entry["multiscale_on_unscaled_image"]
        for p, pair in enumerate(multi["pairs_wh"]):
            offsets = multi["offsets_of_each_pair"]["{}x{}".format(*pair)]
            for o, offset in enumerate(offsets):
                draws = np.array([[(p + 0.5) / len(multi["pairs_wh"]), (o + 0.5) / 13]])
                crop = multi["input_size"]
                box = training_boxes(width, height, AugmentSettings(), crop, draws)[0]
                assert box.tolist() == offset + pair
                checked += 1
    assert checked == 4 * 10 * 13


def test_boxes_equal_the_crops_that_the_original_drew(shared):
    for entry in read_table(shared):
        width, height = (np.array([side]) for side in entry["image_wh"])
        multi = entry["multiscale_on_unscaled_image"]
        for sample in entry["seeded_samples"]:
            draw = random.Random(sample["python_random_seed"])
            pair = draw.choice(range(10))
            position = draw.choice(range(13))
            draws = np.array([[(pair + 0.5) / 10, (position + 0.5) / 13]])
            box = training_boxes(width, height, AugmentSettings(), multi["input_size"], draws)[0]
            assert [*box[2:], *box[:2]] == sample["crop_w_h_offx_offy"]


def test_positions_of_crops_of_one_size_equal_the_table(shared):
    for entry in read_table(shared):
        width, height = (np.array([side]) for side in entry["scaled_wh_shorter_side_256"])
        for crop, want in entry["crops"].items():
            augment = AugmentSettings(scales=(int(crop) / 256,))
            draws = np.array([[[0, (position + 0.5) / 13]] for position in range(13)])
            boxes = [training_boxes(width, height, augment, int(crop), d)[0] for d in draws]
            assert [box[:2].tolist() for box in boxes] == want["fix_offset_13"]
            assert {tuple(box[2:]) for box in boxes} == {(int(crop), int(crop))}
            corners = view_corners(np.stack([width, height], 1), int(crop), 5, reference=True)[0]
            assert corners.tolist() == want["fix_offset_5"]


def test_reference_test_crops_equal_the_table(shared):
    for entry in read_table(shared):
        width, height = (np.array([side]) for side in entry["image_wh"])
        sizes = scaled_sizes(width, height, 256)
        assert sizes[0].tolist() == entry["scaled_wh_shorter_side_256"]
        for crop, want in entry["crops"].items():
            for count, name in ((3, "full_res_sample_3"), (5, "over_sample_5")):
                corners = view_corners(sizes, int(crop), count, reference=True)[0]
                assert corners.tolist() == [box[:2] for box in want[name]]
            center = view_corners(sizes, int(crop), 1, reference=True)[0]
            assert center.tolist() == [want["center_crop_torchvision"][:2]]


def test_three_crops_lie_along_the_longer_side_and_reach_both_ends():
    sizes = np.array([[341, 256], [256, 341]])
    corners = view_corners(sizes, 256, 3, reference=False)
    assert corners.tolist() == [[[0, 0], [85, 0], [42, 0]], [[0, 0], [0, 85], [0, 42]]]


def test_ten_crops_are_five_twice():
    corners = view_corners(np.array([[341, 256]]), 224, 10, reference=False)[0].tolist()
    assert corners[:5] == [[0, 0], [117, 0], [0, 32], [117, 32], [58, 16]]
    assert corners[5:] == corners[:5]


def test_regions_are_the_crops_in_pixels_of_the_stored_frame():
    # 320x240 is scaled to 341x256 and cropped to 256 at x = 85: the region is the crop times
    # 320/341 in x and 240/256 in y.
    corners = np.array([[[85, 0]]])
    sizes = np.array([[341, 256]])
    region = source_regions(corners, 256, sizes, np.array([320]), np.array([240]))[0, 0]
    assert region == pytest.approx([0, 85 * 320 / 341, 240, 320])


@pytest.mark.parametrize("width", [1, 8, 223, 1000, 4000])
@pytest.mark.parametrize("height", [1, 9, 225, 4000])
def test_boxes_lie_inside_frames_of_any_size(width, height):
    draws = np.random.default_rng(0).random((300, 2))
    sides = [np.full(300, side) for side in (width, height)]
    x, y, w, h = training_boxes(*sides, AugmentSettings(), 224, draws).T
    assert min(x.min(), y.min()) >= 0
    assert min(w.min(), h.min()) >= 1
    assert (x + w <= width).all()
    assert (y + h <= height).all()
    corners = view_corners(scaled_sizes(*sides, 256)[:1], 224, 10, reference=False)
    assert corners.min() >= 0


def test_scales_of_width_and_height_differ_by_at_most_max_distort():
    augment = AugmentSettings(scales=(1.0, 0.5), max_distort=0)
    draws = np.random.default_rng(0).random((100, 2))
    boxes = training_boxes(np.full(100, 200), np.full(100, 100), augment, 30, draws)
    assert {tuple(size) for size in boxes[:, 2:].tolist()} == {(100, 100), (50, 50)}
