"""The plan: which clips, frames, crops and flips; against the reference and by arithmetic."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs.load import load
from configs.schema import AugmentSettings, ClipSettings
from pipeline.crops import scaled_sizes, source_regions, training_boxes, view_corners
from pipeline.draws import CROPS, FLIPS, FRAMES, key, shuffled, uniforms
from pipeline.frames import evaluation_frames, training_frames
from pipeline.plan import (
    Order,
    epoch_order,
    evaluation_clips,
    plan_evaluation,
    plan_training,
    training_positions,
)
from preprocess.shards import FRAME_ROW, VIDEO_ROW


def fake_split(num_videos: int, frames: int = 20, per_shard: int = 5) -> SimpleNamespace:
    """Tables of a split without shards: all that a plan looks at."""
    videos, rows = np.zeros(num_videos, VIDEO_ROW), np.zeros(num_videos * frames, FRAME_ROW)
    videos["first_frame"], videos["num_frames"] = np.arange(num_videos) * frames, frames
    videos["width"], videos["height"] = 320, 240
    rows["shard"] = np.arange(len(rows)) // (frames * per_shard)
    return SimpleNamespace(videos=videos, frames=rows, num_videos=num_videos)


def table(shared, name: str) -> list[dict]:
    return json.loads((shared / "reference" / "tables" / f"{name}.json").read_text())


# Random numbers


def test_keys_are_the_numbers_of_splitmix64():
    # the first two outputs for seed 0, as Java's SplittableRandom and splitmix64.c give them
    assert key(0) == 0xE220A8397B1DCDAF and key(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 99, 1000, 65536, 65537])
def test_a_shuffle_of_any_size_holds_each_number_once(size):
    for number in range(3):
        found = shuffled(np.arange(size), size, key(number))
        assert sorted(found.tolist()) == list(range(size))


def test_shuffles_of_different_keys_and_sizes_can_be_asked_at_once():
    sizes = np.array([5, 5, 8, 8, 1])
    keys = np.concatenate([key(1), key(1), key(2), key(2), key(3)])
    found = shuffled(np.array([0, 4, 0, 7, 0]), sizes, keys)
    one, two = (shuffled(np.arange(n), n, key(k)) for n, k in ((5, 1), (8, 2)))
    assert found.tolist() == [one[0], one[4], two[0], two[7], 0]


def test_shuffles_are_spread_evenly():
    # each of the 6 orders of 3 things, over 6000 keys: 1000 on average, deviation 29
    orders = [tuple(shuffled(np.arange(3), 3, key(number))) for number in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and max(abs(count - 1000) for count in counts) < 5 * 29


def test_draws_depend_on_each_of_seed_stream_epoch_and_clip_alone():
    clips = np.array([3, 9, 2**40])
    draws = uniforms(1, FRAMES, 2, clips, 4)
    assert draws.shape == (3, 4) and (uniforms(1, FRAMES, 2, clips[1:], 4) == draws[1:]).all()
    assert (uniforms(1, FRAMES, 2, clips, 3) == draws[:, :3]).all()
    for other in (
        uniforms(0, FRAMES, 2, clips, 4),
        uniforms(1, CROPS, 2, clips, 4),
        uniforms(1, FRAMES, 3, clips, 4),
        uniforms(1, FRAMES, 2, clips + 1, 4),
    ):
        assert not (other == draws).any()


def test_draws_are_uniform_and_uncorrelated():
    draws = uniforms(0, FLIPS, 0, np.arange(40000), 4)
    assert draws.min() >= 0 and draws.max() < 1
    # 5 deviations of a mean (12**-0.5 / 200) and of a correlation (1 / 200)
    assert abs(draws.mean(axis=0) - 0.5).max() < 5 * 12**-0.5 / 200
    columns = np.concatenate([draws[:-1].T, draws[1:].T])
    assert abs(np.corrcoef(columns) - np.eye(8)).max() < 5 / 200


# Order


@pytest.mark.parametrize("order", ["global", "local"])
@pytest.mark.parametrize("num_videos", [1, 7, 53])
def test_an_epoch_visits_each_video_once_in_another_order_each_time(order, num_videos):
    settings = [f"data.order={order}", "data.window_shards=3"]
    order = epoch_order(fake_split(num_videos), load(None, settings))
    epochs = [order.clips(epoch, np.arange(num_videos)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(num_videos))
    assert num_videos < 7 or (epochs[0] != epochs[1]).any()


def test_a_local_order_mixes_so_many_shards_at_a_time():
    split = fake_split(60, per_shard=5)  # 12 shards
    order = epoch_order(split, load(None, ["data.order=local", "data.window_shards=4"]))
    shards = order.clips(0, np.arange(60)) // 5
    windows = [set(shards[start : start + 20].tolist()) for start in (0, 20, 40)]
    assert [len(window) for window in windows] == [4, 4, 4]
    assert set.union(*windows) == set(range(12))
    assert windows != [set(range(4)), set(range(4, 8)), set(range(8, 12))]
    assert len(set(shards[:5].tolist())) > 1  # and inside of a window they are mixed


def test_a_local_order_knows_shards_with_gaps():
    split = fake_split(9, frames=2, per_shard=3)
    split.frames["shard"] = np.repeat([0, 0, 2, 2, 2, 2, 2, 5, 5], 2)  # 1, 3 and 4 are empty
    order = epoch_order(split, load(None, ["data.order=local", "data.window_shards=1"]))
    found = order.clips(3, np.arange(9))
    assert sorted(found.tolist()) == list(range(9))
    shards = split.frames["shard"][2 * found]
    assert sum(shards[1:] != shards[:-1]) == 2  # one shard after the other


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_pass_holds_the_same_clips_frames_and_crops_at_every_world_size(world_size):
    split = fake_split(64)
    config = load(None, ["augment.flip=random", "train.seed=5"])
    order = Order(5, 64)
    want = plan_training(split, config, order, 1, np.arange(16, 32))
    parts = [
        plan_training(split, config, order, 1, training_positions(2, 8, rank, world_size))
        for rank in range(world_size)
    ]
    for name, values in vars(want).items():
        found = np.concatenate([getattr(part, name) for part in parts])
        assert (found == values[:8]).all(), name


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_videos", [1, 6, 20, 21])
def test_evaluation_reads_each_video_once_at_every_world_size(world_size, num_videos):
    num_steps = -(-num_videos // (3 * world_size))
    parts = [
        evaluation_clips(step, num_videos, 3, rank, world_size)
        for step in range(num_steps)
        for rank in range(world_size)
    ]
    assert np.concatenate(parts).tolist() == list(range(num_videos))


def test_flips_are_drawn_for_half_of_the_clips_when_asked():
    split, order = fake_split(2000), Order(0, 2000)
    flips = [
        plan_training(split, load(None, [f"augment.flip={how}"]), order, 0, np.arange(2000)).flips
        for how in ("none", "random", "labels")
    ]
    assert not flips[0].any() and (flips[1] == flips[2]).all()
    assert abs(flips[1].mean() - 0.5) < 5 * 0.5 / 2000**0.5


# Frames against the reference


def test_reference_frames_equal_the_table(shared):
    checked = 0
    for entry in table(shared, "frame_indices"):
        if "error" in entry:
            continue
        frames = reference_frames(entry)
        assert frames[:: entry["new_length"]].tolist() == entry["indices_1based"], entry
        checked += 1
    assert checked == 246


def reference_frames(entry: dict) -> np.ndarray:
    """Return the frames of an entry, counted from 1, with the draws that the reference used."""
    T, dense = entry["T"], entry["mode"] == "dense"
    settings = ClipSettings(
        num_segments=T,
        frames_per_segment=entry["new_length"],
        sampling="reference_dense" if dense else "reference",
        stride=entry.get("dense_sample_rate", 8),
    )
    drawn = [(np.atleast_1d(v) + 0.5) / high for _, high, v in entry["draws_low_high_values"]]
    num_frames = np.array([entry["num_frames"]])
    if entry["kind"] == "train":
        draws = np.zeros((1, T))
        for values in drawn:
            draws[0, : len(values)] = values
        return training_frames(num_frames, settings, draws)[0] + 1
    clips = {"val": 1, "test": 10 if dense else entry.get("temporal_clips")}[entry["kind"]]
    draws = np.zeros((1, clips, T))
    for number, values in enumerate(drawn):  # the first of several clips is the center
        draws[0, number + (clips > 1), : len(values)] = values
    return evaluation_frames(num_frames, settings, clips, draws).ravel() + 1


def test_uniform_middle_frames_equal_the_rgb_rows_of_the_table(shared):
    rows = [
        entry
        for entry in table(shared, "frame_indices")
        if entry["kind"] == "val" and entry["mode"] == "uniform"
    ]
    for entry in rows:
        L = entry["new_length"]
        settings = ClipSettings(num_segments=entry["T"], frames_per_segment=L)
        frames = evaluation_frames(np.array([entry["num_frames"]]), settings, 1, None)[0, 0]
        assert (frames[::L] + 1).tolist() == entry["indices_1based"]


# Frames, sane


def uniform(T: int, L: int = 1) -> ClipSettings:
    return ClipSettings(num_segments=T, frames_per_segment=L)


def dense(T: int, stride: int) -> ClipSettings:
    return ClipSettings(num_segments=T, sampling="dense", stride=stride)


def test_uniform_training_takes_a_frame_of_each_part_and_every_frame_can_come():
    # 11 frames in 4 parts: 0-1, 2-4, 5-7, 8-10
    draws = np.random.default_rng(0).random((500, 4))
    frames = training_frames(np.full(500, 11), uniform(4), draws)
    parts = [sorted(set(column.tolist())) for column in frames.T]
    assert parts == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10]]


def test_a_video_shorter_than_the_clip_spreads_its_frames():
    for draws in (np.zeros((1, 8)), np.full((1, 8), 0.99)):
        frames = training_frames(np.array([3]), uniform(8), draws)
        assert frames.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    frames = evaluation_frames(np.array([3]), uniform(8), 2, None)
    assert frames.tolist() == [[[0, 0, 0, 1, 1, 2, 2, 2]] * 2]


def test_one_frame_is_a_clip():
    for settings in (uniform(3), dense(3, 4), uniform(3, L=2)):
        L = settings.frames_per_segment
        frames = training_frames(np.array([1]), settings, np.full((1, 3), 0.9))
        assert frames.tolist() == [[0] * 3 * L]
        assert evaluation_frames(np.array([1]), settings, 2, None).tolist() == [[[0] * 3 * L] * 2]


def test_uniform_test_clips_lie_at_even_phases_of_each_part():
    # 16 frames in 2 parts of 8: phases 1/4 and 3/4 of a part
    frames = evaluation_frames(np.array([16]), uniform(2), 2, None)
    assert frames.tolist() == [[[2, 10], [6, 14]]]


def test_dense_training_takes_frames_at_a_stride_and_reaches_the_last_start():
    # 10 frames, 3 of them 4 apart span 9: starts 0 and 1
    frames = training_frames(np.array([10, 10]), dense(3, 4), np.array([[0.49] * 3, [0.5] * 3]))
    assert frames.tolist() == [[0, 4, 8], [1, 5, 9]]


def test_dense_test_is_centered_or_evenly_spaced():
    # 13 frames: starts 0 to 4
    assert evaluation_frames(np.array([13]), dense(3, 4), 1, None).tolist() == [[[2, 6, 10]]]
    frames = evaluation_frames(np.array([13]), dense(3, 4), 3, None)
    assert frames.tolist() == [[[0, 4, 8], [2, 6, 10], [4, 8, 12]]]


def test_dense_clips_of_a_short_video_never_run_backwards():
    frames = training_frames(np.array([6]), dense(4, 8), np.full((1, 4), 0.7))
    assert frames.tolist() == [[0, 2, 3, 5]]  # the middles of 4 parts of 1.5 frames


def test_stacked_neighbours_stay_inside_the_video():
    # 6 frames, 3 neighbours: starts 0 to 3; T=2 middles of 4 places are 1 and 3
    frames = evaluation_frames(np.array([6, 2]), uniform(2, L=3), 1, None)
    assert frames[:, 0].tolist() == [[1, 2, 3, 3, 4, 5], [0, 1, 1, 0, 1, 1]]


def test_evaluation_with_the_reference_sampling_repeats_its_draws():
    settings = ["clip.sampling=reference", "test.clips=3", "clip.num_segments=4"]
    split, config = fake_split(5, frames=40), load(None, settings)
    one, two = (plan_evaluation(split, config, np.arange(5)) for _ in range(2))
    assert (one.frames == two.frames).all() and one.frames.shape == (5, 12)
    assert one.frames[0, :4].tolist() == [5, 15, 25, 35]


# Crops


def test_multi_scale_boxes_equal_the_table(shared):
    checked = 0
    for entry in table(shared, "crops"):
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


def test_reference_test_crops_equal_the_table(shared):
    for entry in table(shared, "crops"):
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


def test_regions_are_crops_in_pixels_of_the_stored_frame():
    # 320x240 scaled to 341x256, crop 256 at x 85: everything times 320/341 and 240/256
    corners, sizes = np.array([[[85, 0]]]), np.array([[341, 256]])
    region = source_regions(corners, 256, sizes, np.array([320]), np.array([240]))[0, 0]
    assert region == pytest.approx([0, 85 * 320 / 341, 240, 320])


@pytest.mark.parametrize("width", [1, 8, 223, 1000, 4000])
@pytest.mark.parametrize("height", [1, 9, 225, 4000])
def test_boxes_lie_inside_of_frames_of_any_size(width, height):
    draws = np.random.default_rng(0).random((300, 2))
    sides = [np.full(300, side) for side in (width, height)]
    x, y, w, h = training_boxes(*sides, AugmentSettings(), 224, draws).T
    assert min(x.min(), y.min()) >= 0 and min(w.min(), h.min()) >= 1
    assert (x + w <= width).all() and (y + h <= height).all()
    corners = view_corners(scaled_sizes(*sides, 256)[:1], 224, 10, reference=False)
    assert corners.min() >= 0


def test_crops_are_no_further_apart_than_asked():
    augment = AugmentSettings(scales=(1.0, 0.5), max_distort=0)
    draws = np.random.default_rng(0).random((100, 2))
    boxes = training_boxes(np.full(100, 200), np.full(100, 100), augment, 30, draws)
    assert {tuple(size) for size in boxes[:, 2:].tolist()} == {(100, 100), (50, 50)}
