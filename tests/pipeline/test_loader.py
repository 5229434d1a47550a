"""The loader: exact positions, any number of ranks, the content of batches, and the cost."""

import gc
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from synthetic_dataset import SETTINGS, clip_loaders, color, left_color, write_dataset

from configs.load import load
from pipeline.loader import ClipLoader
from pipeline.plan import Order, plan_training
from preprocess.shards import DatasetInfo, open_split, read_info, write_info

NUM_FRAMES = [3, 9, 20, 11, 8, 5, 24, 2, 16, 17, 18, 1, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 videos of 1 to 24 frames, landscape and portrait, in 4 shards."""
    folder = tmp_path_factory.mktemp("loader") / "tiny"
    return write_dataset(folder, NUM_FRAMES, sizes=[(32, 24), (24, 40)])


@pytest.fixture
def load_clips():
    with clip_loaders() as make:
        yield make


def equal(one, two) -> bool:
    """Return whether two lists of batches are equal bit for bit."""
    pairs = zip(one, two, strict=True)
    return all(torch.equal(getattr(a, n), getattr(b, n)) for a, b in pairs for n in vars(a))


# Position


def test_an_epoch_repeats_bit_for_bit_with_any_number_of_threads(folder, load_clips):
    loader = load_clips(folder)
    first = list(loader.epoch(1))
    assert len(first) == loader.num_steps == 3
    assert equal(first, list(loader.epoch(1)))
    other = load_clips(folder, "run.threads=4", "run.readers=4", "run.prefetch=1")
    assert equal(first, list(other.epoch(1)))
    assert not torch.equal(first[0].clips, next(loader.epoch(2)).clips)


def test_an_epoch_can_start_at_any_step(folder, load_clips):
    loader = load_clips(folder, "train.accumulate=2")
    whole = list(loader.epoch(4))
    assert len(whole) == 6
    for step in range(7):
        assert equal(whole[step:], list(load_clips(folder, "train.accumulate=2").epoch(4, step)))


def test_an_abandoned_iterator_does_not_change_the_next_epoch(folder, load_clips):
    loader = load_clips(folder)
    want = list(loader.epoch(0))
    abandoned = loader.epoch(3)
    next(abandoned)
    assert equal(want, list(loader.epoch(0)))
    with pytest.raises(RuntimeError, match="started another epoch"):
        next(abandoned)
    closed = loader.epoch(3)
    next(closed)
    closed.close()
    assert equal(want, list(loader.epoch(0)))


def test_a_batch_that_is_kept_is_not_overwritten(folder, load_clips):
    loader = load_clips(folder)
    kept = next(loader.epoch(0)).x
    part = next(loader.epoch(0)).x[1:, 2]
    want = kept.clone()
    for epoch in (1, 2, 3):
        assert not any(torch.equal(batch.x, want) for batch in loader.epoch(epoch))
    assert torch.equal(kept, want)
    assert torch.equal(part, want[1:, 2])


def test_closing_ends_all_threads(folder):
    before = threading.active_count()
    config = load(None, SETTINGS)
    loader = ClipLoader(folder, "train", config, training=True)
    next(loader.epoch(0))
    assert threading.active_count() > before
    loader.close()
    assert threading.active_count() == before


def test_the_loader_counts_the_time_that_its_caller_waits(folder, load_clips):
    loader = load_clips(folder)
    began = time.perf_counter()
    for _ in loader.epoch(0):
        time.sleep(0.02)
    assert 0 < loader.wait_s <= time.perf_counter() - began - 3 * 0.02


# Content


def test_a_training_clip_holds_the_planned_frames_of_its_video(folder, load_clips):
    settings = ("augment.scales=[1.0]", "augment.flip=none")
    loader = load_clips(folder, *settings)
    config = load(None, [*SETTINGS, *settings])
    order = Order(0, len(NUM_FRAMES))
    for step, batch in enumerate(loader.epoch(2)):
        plan = plan_training(loader.split, config, order, 2, np.arange(4 * step, 4 * step + 4))
        assert batch.x.shape == (4, 4, 1, 16, 16, 3)
        assert batch.x.dtype == torch.uint8
        assert batch.clips.tolist() == plan.clips.tolist()
        for row, clip in enumerate(plan.clips):
            if plan.boxes[row, 0] > 4:
                continue  # compare only boxes that start well inside the colored half
            want = [color(clip, frame) for frame in plan.frames[row]]
            assert left_color(batch.x[row, :, 0]).numpy() == pytest.approx(np.array(want), abs=4)


def test_consecutive_frames_are_stacked_as_channels(folder, load_clips):
    loader = load_clips(folder, "clip.frames_per_segment=3", "clip.num_segments=2", training=False)
    batch = list(loader.epoch(0))[1]  # videos 2 and 3, of 20 and 11 frames
    assert batch.x.shape == (2, 1, 2, 3, 16, 16, 3)
    # 3 frames can start at 18 and at 9 frames; the middles of two parts are 4, 13 and 2, 6.
    for row, starts in enumerate([(4, 13), (2, 6)]):
        for segment, start in enumerate(starts):
            stack = left_color(batch.x[row, 0, segment])
            want = [color(2 + row, start + frame) for frame in range(3)]
            assert stack.numpy() == pytest.approx(np.array(want), abs=4)


def test_views_list_the_crops_of_each_clip_next_to_each_other(folder, load_clips):
    loader = load_clips(folder, "test.clips=2", "test.crops=3", "clip.crop=24", training=False)
    batch = list(loader.epoch(0))[1]  # video 2: 20 frames in 32 x 24
    assert batch.x.shape == (2, 6, 4, 1, 24, 24, 3)
    # The clips take phases 1/4 and 3/4 of 4 parts of 5 frames. The left crop starts in the color.
    for clip, frames in enumerate([(1, 6, 11, 16), (3, 8, 13, 18)]):
        found = left_color(batch.x[0, 3 * clip, :, 0])
        assert found.numpy() == pytest.approx(np.array([color(2, f) for f in frames]), abs=4)
    # The color covers the left 16 of 32 pixels. The crops of 24 pixels start at 0, 8 and 4.
    green = batch.x[0, :3, 3, 0, 12, :, 1].int()
    assert [int((2 * view > view.max() + view.min()).sum()) for view in green] == [16, 8, 12]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_world_size_sees_the_same_pixels(folder, load_clips, world_size):
    want = list(load_clips(folder).epoch(1))
    ranks = [
        list(load_clips(folder, rank=rank, world_size=world_size).epoch(1))
        for rank in range(world_size)
    ]
    for step, batch in enumerate(want):
        for name, values in vars(batch).items():
            assert torch.equal(torch.cat([getattr(r[step], name) for r in ranks]), values)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_sees_each_video_once_in_equal_steps(folder, load_clips, world_size):
    want = {c: x for b in load_clips(folder, training=False).epoch(0) for c, x in scored(b)}
    seen = {}
    steps = set()
    for rank in range(world_size):
        loader = load_clips(folder, training=False, rank=rank, world_size=world_size)
        batches = list(loader.epoch(0))
        steps |= {len(batches), loader.num_steps}
        for batch in batches:
            assert len(batch.x) == len(batch.labels) == len(batch.clips) == 2
            for clip, x in scored(batch):
                assert clip not in seen
                assert torch.equal(x, want[clip])
                seen[clip] = x
    assert sorted(seen) == list(range(13))
    assert len(steps) == 1


def scored(batch):
    return [(c, x) for c, x in zip(batch.clips.tolist(), batch.x, strict=True) if c >= 0]


def test_frames_of_any_size_make_a_batch(tmp_path, load_clips):
    sizes = [(8, 6), (4000, 8), (33, 17), (9, 300)]
    folder = write_dataset(tmp_path / "sizes", [1, 2, 3, 4], sizes=sizes)
    (batch,) = load_clips(folder).epoch(0)
    assert batch.x.shape == (4, 4, 1, 16, 16, 3)
    loader = load_clips(folder, "test.batch=4", "test.crops=3", training=False)
    (batch,) = loader.epoch(0)  # the left crop of a wide video is in the color
    assert batch.x.shape == (4, 3, 4, 1, 16, 16, 3)
    want = np.array([color(1, frame) for frame in (0, 0, 1, 1)])
    assert left_color(batch.x[1, 0, :, 0]).numpy() == pytest.approx(want, abs=4)


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_loads_the_same_batches_as_the_cpu(folder, load_clips, training):
    want, found = (
        list(load_clips(folder, training=training, device=device).epoch(0))
        for device in ("cpu", "cuda:0")
    )
    for one, two in zip(want, found, strict=True):
        assert {value.device.type for value in vars(two).values()} == {"cuda"}
        assert torch.equal(one.clips, two.clips.cpu())
        assert torch.equal(one.labels, two.labels.cpu())
        difference = (one.x.int() - two.x.cpu().int()).abs()
        assert difference.float().mean() < 1  # gray levels
    again = list(load_clips(folder, training=training, device="cuda:0").epoch(0))
    assert equal(found, again)


# Size


@pytest.mark.parametrize("order", ["global", "local"])
def test_a_million_videos_load_at_once_and_need_little_memory(tmp_path, load_clips, order):
    folder = repeated(tmp_path, num_videos=1_000_000, per_shard=1000)
    gc.collect()
    tracemalloc.start()
    began = time.perf_counter()
    loader = load_clips(folder, f"data.order={order}", "train.batch=8")
    for _, batch in zip(range(3), loader.epoch(1, 1000), strict=False):
        assert batch.x.shape[0] == 8
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loader.num_videos == 1_000_000
    assert seconds < 30
    assert peak < 4e6  # a list of the videos alone would take 8 MB


def repeated(tmp_path, num_videos: int, per_shard: int):
    """Write the tables of a large split whose shards are all links to the same small file."""
    folder = write_dataset(tmp_path / "large", [2])
    split = open_split(folder, "train")
    info = read_info(folder)
    videos = np.repeat(split.videos, num_videos)
    videos["first_frame"] = 2 * np.arange(num_videos)
    videos["first_label"] = np.arange(num_videos)
    frames = np.tile(split.frames, num_videos)
    frames["shard"] = np.arange(2 * num_videos) // (2 * per_shard)
    np.save(folder / "train.videos.npy", videos)
    np.save(folder / "train.frames.npy", frames)
    np.save(folder / "train.labels.npy", np.zeros(num_videos, np.int32))
    for shard in range(1, num_videos // per_shard):
        split.shard_path(shard).symlink_to(split.shard_path(0))
    values = {**info.model_dump(exclude={"name"}), "splits": {"train": num_videos}}
    write_info(folder, DatasetInfo(**values))
    return folder
