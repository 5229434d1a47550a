"""The loader: exact positions, any number of ranks, what a batch holds, and its cost."""

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
    """Whether two lists of batches are equal bit for bit."""
    pairs = zip(one, two, strict=True)
    return all(torch.equal(getattr(a, n), getattr(b, n)) for a, b in pairs for n in vars(a))


# Position


def test_an_epoch_repeats_bit_for_bit_with_any_threads(folder, load_clips):
    loader = load_clips(folder)
    first = list(loader.epoch(1))
    assert len(first) == loader.num_steps == 3
    assert equal(first, list(loader.epoch(1)))
    other = load_clips(folder, "run.threads=4", "run.readers=4", "run.prefetch=1")
    assert equal(first, list(other.epoch(1)))
    assert not torch.equal(first[0].clips, next(loader.epoch(2)).clips)


def test_an_epoch_starts_at_any_step(folder, load_clips):
    loader = load_clips(folder, "train.accumulate=2")
    whole = list(loader.epoch(4))
    assert len(whole) == 6
    for step in range(7):
        assert equal(whole[step:], list(load_clips(folder, "train.accumulate=2").epoch(4, step)))


def test_an_abandoned_iterator_disturbs_nothing(folder, load_clips):
    loader = load_clips(folder)
    want = list(loader.epoch(0))
    abandoned = loader.epoch(3)
    next(abandoned)
    assert equal(want, list(loader.epoch(0)))
    with pytest.raises(RuntimeError, match="began another epoch"):
        next(abandoned)
    closed = loader.epoch(3)
    next(closed)
    closed.close()
    assert equal(want, list(loader.epoch(0)))


def test_a_batch_that_is_kept_is_not_written_over(folder, load_clips):
    loader = load_clips(folder)
    kept, part = next(loader.epoch(0)).x, next(loader.epoch(0)).x[1:, 2]
    want = kept.clone()
    for epoch in (1, 2, 3):
        assert not any(torch.equal(batch.x, want) for batch in loader.epoch(epoch))
    assert torch.equal(kept, want) and torch.equal(part, want[1:, 2])


def test_closing_ends_all_threads(folder):
    before = threading.active_count()
    config = load(None, SETTINGS)
    loader = ClipLoader(folder, "train", config, training=True)
    next(loader.epoch(0))
    assert threading.active_count() > before
    loader.close()
    assert threading.active_count() == before


def test_the_time_that_was_waited_is_counted(folder, load_clips):
    loader, began = load_clips(folder), time.perf_counter()
    for _ in loader.epoch(0):
        time.sleep(0.02)
    assert 0 < loader.wait_s <= time.perf_counter() - began - 3 * 0.02


# Content


def test_a_training_clip_holds_the_planned_frames_of_its_video(folder, load_clips):
    settings = ("augment.scales=[1.0]", "augment.flip=none")
    loader = load_clips(folder, *settings)
    config, order = load(None, [*SETTINGS, *settings]), Order(0, len(NUM_FRAMES))
    for step, batch in enumerate(loader.epoch(2)):
        plan = plan_training(loader.split, config, order, 2, np.arange(4 * step, 4 * step + 4))
        assert batch.x.shape == (4, 4, 3, 16, 16) and batch.x.dtype == torch.float32
        assert batch.clips.tolist() == plan.clips.tolist()
        for row, clip in enumerate(plan.clips):
            if plan.boxes[row, 0] > 4:
                continue  # the colored half of the frame lies outside
            want = [color(clip, frame) for frame in plan.frames[row]]
            assert left_color(batch.x[row]).numpy() == pytest.approx(np.array(want), abs=4)


def test_neighbours_are_stacked_as_channels(folder, load_clips):
    loader = load_clips(folder, "clip.frames_per_segment=3", "clip.num_segments=2", training=False)
    batch = list(loader.epoch(0))[1]  # videos 2 and 3, of 20 and 11 frames
    assert batch.x.shape == (2, 1, 2, 9, 16, 16)
    # 18 places: middles 4 and 13; 9 places: middles 2 and 6
    for row, starts in enumerate([(4, 13), (2, 6)]):
        for segment, start in enumerate(starts):
            stack = left_color(batch.x[row, 0, segment].view(3, 3, 16, 16))
            want = [color(2 + row, start + neighbour) for neighbour in range(3)]
            assert stack.numpy() == pytest.approx(np.array(want), abs=4)


def test_views_are_clips_and_then_crops(folder, load_clips):
    loader = load_clips(folder, "test.clips=2", "test.crops=3", "clip.crop=24", training=False)
    batch = list(loader.epoch(0))[1]  # video 2: 20 frames in 32 x 24
    assert batch.x.shape == (2, 6, 4, 3, 24, 24)
    # 4 parts of 5 frames at phases 1/4 and 3/4; the left crop begins in the color
    for clip, frames in enumerate([(1, 6, 11, 16), (3, 8, 13, 18)]):
        found = left_color(batch.x[0, 3 * clip])
        assert found.numpy() == pytest.approx(np.array([color(2, f) for f in frames]), abs=4)
    # of 32 pixels the left crop has color up to its pixel 16, the right one up to 8
    green = batch.x[0, :3, 3, 1, 12]
    assert [int((view > 0.5 * (view.max() + view.min())).sum()) for view in green] == [16, 8, 12]


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
    seen, steps = {}, set()
    for rank in range(world_size):
        loader = load_clips(folder, training=False, rank=rank, world_size=world_size)
        batches = list(loader.epoch(0))
        steps |= {len(batches), loader.num_steps}
        for batch in batches:
            assert len(batch.x) == len(batch.labels) == len(batch.clips) == 2
            for clip, x in scored(batch):
                assert clip not in seen and torch.equal(x, want[clip])
                seen[clip] = x
    assert sorted(seen) == list(range(13)) and len(steps) == 1


def scored(batch):
    return [(c, x) for c, x in zip(batch.clips.tolist(), batch.x, strict=True) if c >= 0]


def test_frames_of_any_size_make_a_batch(tmp_path, load_clips):
    sizes = [(8, 6), (4000, 8), (33, 17), (9, 300)]
    folder = write_dataset(tmp_path / "sizes", [1, 2, 3, 4], sizes=sizes)
    (batch,) = load_clips(folder).epoch(0)
    assert batch.x.shape == (4, 4, 3, 16, 16) and batch.x.isfinite().all()
    loader = load_clips(folder, "test.batch=4", "test.crops=3", training=False)
    (batch,) = loader.epoch(0)  # the left crop of wide videos lies in the color
    assert batch.x.shape == (4, 3, 4, 3, 16, 16) and batch.x.isfinite().all()
    want = np.array([color(1, frame) for frame in (0, 0, 1, 1)])
    assert left_color(batch.x[1, 0]).numpy() == pytest.approx(want, abs=4)


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_a_gpu_gets_the_batches_of_the_cpu(folder, load_clips, training):
    want, found = (
        list(load_clips(folder, training=training, device=device).epoch(0))
        for device in ("cpu", "cuda:0")
    )
    for one, two in zip(want, found, strict=True):
        assert {value.device.type for value in vars(two).values()} == {"cuda"}
        assert torch.equal(one.clips, two.clips.cpu()) and torch.equal(one.labels, two.labels.cpu())
        difference = (one.x - two.x.cpu()).abs()
        assert difference.mean() < 0.02  # a grey level
    again = list(load_clips(folder, training=training, device="cuda:0").epoch(0))
    assert equal(found, again)


# Size


@pytest.mark.parametrize("order", ["global", "local"])
def test_a_million_videos_start_at_once_and_need_no_memory(tmp_path, load_clips, order):
    folder = repeated(tmp_path, num_videos=1_000_000, per_shard=1000)
    gc.collect()
    tracemalloc.start()
    began = time.perf_counter()
    loader = load_clips(folder, f"data.order={order}", "train.batch=8")
    for _, batch in zip(range(3), loader.epoch(1, 1000), strict=False):
        assert batch.x.shape[0] == 8
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loader.num_videos == 1_000_000 and seconds < 30
    assert peak < 4e6  # a list of the videos alone would take 8 MB


def repeated(tmp_path, num_videos: int, per_shard: int):
    """Make the tables of a large split whose shards are all the same small file."""
    folder = write_dataset(tmp_path / "large", [2])
    split, info = open_split(folder, "train"), read_info(folder)
    videos = np.repeat(split.videos, num_videos)
    videos["first_frame"], videos["first_label"] = 2 * np.arange(num_videos), np.arange(num_videos)
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
