"""The plan: random numbers, the order of an epoch, and the steps at any number of ranks."""

from types import SimpleNamespace

import numpy as np
import pytest

from configs.load import load
from pipeline.plan import (
    Order,
    epoch_order,
    evaluation_clips,
    plan_evaluation,
    plan_training,
    training_positions,
)
from pipeline.random_numbers import CROPS, FLIPS, FRAMES, key, shuffled, uniforms
from preprocess.tables import FRAME_ROW, VIDEO_ROW


def fake_split(num_videos: int, frames: int = 20, per_shard: int = 5) -> SimpleNamespace:
    """Return the tables of a split without shards, which are all that a plan reads."""
    videos = np.zeros(num_videos, VIDEO_ROW)
    videos["first_frame"] = np.arange(num_videos) * frames
    videos["num_frames"] = frames
    videos["width"] = 320
    videos["height"] = 240
    rows = np.zeros(num_videos * frames, FRAME_ROW)
    rows["shard"] = np.arange(len(rows)) // (frames * per_shard)
    return SimpleNamespace(videos=videos, frames=rows, num_videos=num_videos)


# Random numbers


def test_keys_are_the_numbers_of_splitmix64():
    # These are the first two outputs of splitmix64.c and of Java's SplittableRandom for seed 0.
    assert key(0) == 0xE220A8397B1DCDAF
    assert key(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 99, 1000, 65536, 65537])
def test_a_shuffle_of_any_size_contains_each_number_once(size):
    for number in range(3):
        found = shuffled(np.arange(size), size, key(number))
        assert sorted(found.tolist()) == list(range(size))


def test_one_call_evaluates_shuffles_of_different_keys_and_sizes():
    sizes = np.array([5, 5, 8, 8, 1])
    keys = np.concatenate([key(1), key(1), key(2), key(2), key(3)])
    found = shuffled(np.array([0, 4, 0, 7, 0]), sizes, keys)
    one, two = (shuffled(np.arange(n), n, key(k)) for n, k in ((5, 1), (8, 2)))
    assert found.tolist() == [one[0], one[4], two[0], two[7], 0]


def test_all_shuffles_are_equally_likely():
    # Over 6000 keys, each of the 6 orders of 3 elements comes 1000 times, deviation 29.
    orders = [tuple(shuffled(np.arange(3), 3, key(number))) for number in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 5 * 29


def test_draws_depend_on_each_of_seed_stream_epoch_and_clip_alone():
    clips = np.array([3, 9, 2**40])
    draws = uniforms(1, FRAMES, 2, clips, 4)
    assert draws.shape == (3, 4)
    assert (uniforms(1, FRAMES, 2, clips[1:], 4) == draws[1:]).all()
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
    assert draws.min() >= 0
    assert draws.max() < 1
    # Allow 5 deviations: 12**-0.5 / 200 for a mean, 1 / 200 for a correlation.
    assert abs(draws.mean(axis=0) - 0.5).max() < 5 * 12**-0.5 / 200
    columns = np.concatenate([draws[:-1].T, draws[1:].T])
    assert abs(np.corrcoef(columns) - np.eye(8)).max() < 5 / 200


# Order


@pytest.mark.parametrize("order", ["global", "local"])
@pytest.mark.parametrize("num_videos", [1, 7, 53])
def test_each_epoch_visits_each_video_once_in_a_different_order(order, num_videos):
    settings = [f"data.order={order}", "data.window_shards=3"]
    order = epoch_order(fake_split(num_videos), load(None, settings))
    epochs = [order.clips(epoch, np.arange(num_videos)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(num_videos))
    assert num_videos < 7 or (epochs[0] != epochs[1]).any()


def test_a_local_order_mixes_the_shards_of_each_window():
    split = fake_split(60, per_shard=5)  # 12 shards
    order = epoch_order(split, load(None, ["data.order=local", "data.window_shards=4"]))
    shards = order.clips(0, np.arange(60)) // 5
    windows = [set(shards[start : start + 20].tolist()) for start in (0, 20, 40)]
    assert [len(window) for window in windows] == [4, 4, 4]
    assert set.union(*windows) == set(range(12))
    assert windows != [set(range(4)), set(range(4, 8)), set(range(8, 12))]
    assert len(set(shards[:5].tolist())) > 1  # the shards of a window are mixed


def test_a_local_order_works_with_empty_shards():
    split = fake_split(9, frames=2, per_shard=3)
    split.frames["shard"] = np.repeat([0, 0, 2, 2, 2, 2, 2, 5, 5], 2)  # 1, 3 and 4 are empty
    order = epoch_order(split, load(None, ["data.order=local", "data.window_shards=1"]))
    found = order.clips(3, np.arange(9))
    assert sorted(found.tolist()) == list(range(9))
    shards = split.frames["shard"][2 * found]
    assert sum(shards[1:] != shards[:-1]) == 2  # the three shards come one after the other


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_pass_holds_the_same_clips_frames_and_crops_at_every_world_size(world_size):
    split = fake_split(64)
    config = load("demo", ["augment.flip=random", "train.seed=5"])
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


def test_half_of_the_clips_are_flipped_if_the_setting_says_so():
    split = fake_split(2000)
    order = Order(0, 2000)
    flips = [
        plan_training(split, load(None, [f"augment.flip={how}"]), order, 0, np.arange(2000)).flips
        for how in ("none", "random", "labels")
    ]
    assert not flips[0].any()
    assert (flips[1] == flips[2]).all()
    assert abs(flips[1].mean() - 0.5) < 5 * 0.5 / 2000**0.5


def test_evaluation_with_the_reference_sampling_is_repeatable():
    settings = ["clip.sampling=reference", "test.clips=3", "clip.num_segments=4"]
    split = fake_split(5, frames=40)
    config = load(None, settings)
    one, two = (plan_evaluation(split, config, np.arange(5)) for _ in range(2))
    assert one.frames.shape == (5, 12)
    assert (one.frames == two.frames).all()
    assert one.frames[0, :4].tolist() == [5, 15, 25, 35]


def test_a_test_reads_the_two_clips_of_tsm_if_the_setting_says_so():
    config = load(None, ["test.sampling=twice", "test.clips=2", "clip.num_segments=4"])
    plan = plan_evaluation(fake_split(2, frames=16), config, np.array([1]))
    assert plan.frames.tolist() == [[2, 6, 10, 14, 0, 4, 8, 12]]
