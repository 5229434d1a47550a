"""Labels of batches, damaged frames in them, and batches that cannot be."""

import numpy as np
import pytest
import torch
from synthetic_dataset import SETTINGS, clip_loaders, color, flip_byte, left_color, write_dataset

from configs.load import ConfigError, load
from pipeline.loader import BadDataError, ClipLoader
from pipeline.plan import Order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 videos of 2 frames."""
    return write_dataset(tmp_path_factory.mktemp("batches") / "tiny", [2] * 13)


@pytest.fixture
def own(tmp_path):
    """Four videos of 6 frames, to be damaged."""
    return write_dataset(tmp_path / "own", [6] * 4, per_shard=2)


@pytest.fixture
def load_clips():
    with clip_loaders() as make:
        yield make


# Labels


def test_labels_are_those_of_the_clips(folder, load_clips):
    for batch in load_clips(folder).epoch(0):
        assert batch.labels.tolist() == [clip % 3 for clip in batch.clips.tolist()]
    last = list(load_clips(folder, training=False).epoch(0))[-1]
    assert last.clips.tolist() == [12, -1] and last.labels.tolist() == [0, -1]


def test_mirrored_clips_swap_left_and_right_when_asked(folder, load_clips):
    plain = load_clips(folder, "augment.flip=random")
    swapped = load_clips(folder, "augment.flip=labels")
    changed = 0
    for one, two in zip(plain.epoch(0), swapped.epoch(0), strict=True):
        assert torch.equal(one.x, two.x)
        pairs = list(zip(one.labels.tolist(), two.labels.tolist(), strict=True))
        assert set(pairs) <= {(0, 0), (1, 1), (2, 2), (0, 1), (1, 0)}
        changed += sum(a != b for a, b in pairs)
    assert 0 < changed < 12


def test_several_labels_are_a_row_of_zeros_and_ones(tmp_path, load_clips):
    labels = [("left", "still"), (), ("right",)]
    folder = write_dataset(tmp_path / "multi", [2] * 4, labels=labels, multi_label=True)
    rows = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]])
    (batch,) = load_clips(folder).epoch(0)
    assert torch.equal(batch.labels, rows[batch.clips])
    loader = load_clips(folder, "augment.flip=labels", "train.batch=1")
    mirrored = [b.labels[0] for b in loader.epoch(0) if b.clips[0] == 0]
    assert mirrored[0].tolist() in ([1, 0, 1], [0, 1, 1])


def test_a_split_without_labels_gives_minus_one(tmp_path, load_clips):
    folder = write_dataset(tmp_path / "none", [2] * 4, labels=[()])
    (batch,) = load_clips(folder, "augment.flip=labels").epoch(0)
    assert batch.labels.tolist() == [-1] * 4


# Damage


def test_damaged_frames_are_replaced_and_named_once_for_each_batch_taken(own, load_clips):
    flip_byte(own, 1, 2)
    loader = load_clips(own, "clip.num_segments=6", training=False)
    whole = [color(1, frame) for frame in (0, 1, 1, 3, 4, 5)]
    iterator = loader.epoch(0)
    found = left_color(next(iterator).x[1, 0]).numpy()
    assert found == pytest.approx(np.array(whole), abs=4)
    (bad,) = loader.take_bad_frames()
    assert (bad.clip, bad.frame) == (1, 2) and loader.take_bad_frames() == []
    next(iterator)
    assert loader.take_bad_frames() == []
    next(loader.epoch(0, 1))  # a position behind it
    assert loader.take_bad_frames() == []


def test_a_video_without_a_good_frame_is_left_out_of_evaluation(own, load_clips):
    for frame in range(6):
        flip_byte(own, 2, frame)
    loader = load_clips(own, training=False)
    batches = list(loader.epoch(0))
    assert [batch.clips.tolist() for batch in batches] == [[0, 1], [3, -1]]
    assert [bad.clip for bad in loader.take_bad_frames()] == [2] * 4
    assert batches[1].labels.tolist() == [0, -1] and not batches[1].x[1].any()


@pytest.mark.parametrize("world_size", [1, 2])
def test_in_training_the_next_clip_takes_the_place_of_a_lost_one(own, load_clips, world_size):
    order = Order(0, 4).clips(0, np.arange(4)).tolist()
    for frame in range(6):
        flip_byte(own, order[1], frame)
    ranks = [
        list(load_clips(own, rank=rank, world_size=world_size).epoch(0))
        for rank in range(world_size)
    ]
    clips = torch.cat([rank[0].clips for rank in ranks]).tolist()
    assert clips == [order[0], order[2], order[2], order[3]]
    x = torch.cat([rank[0].x for rank in ranks])
    assert torch.equal(x[1], x[2])


def test_too_many_damaged_frames_stop_the_loader_with_the_list(own, load_clips):
    for video in range(3):
        for frame in range(6):
            flip_byte(own, video, frame)
    loader = load_clips(own, "clip.num_segments=8", training=False)
    assert loader.max_bad_frames == 20  # 16 of the first step, 24 with the second
    iterator = loader.epoch(0)
    next(iterator)
    with pytest.raises(BadDataError, match=r"24 damaged frames(?s:.*)video 0 frame 0: .*crc32"):
        next(iterator)
    assert len(loader.take_bad_frames()) == 24


def test_training_on_lost_shards_alone_stops(own, load_clips):
    for path in own.glob("*.tar"):
        path.unlink()
    loader = load_clips(own, "clip.num_segments=6")  # four clips: more than 20 in one batch
    with pytest.raises(BadDataError, match="24 damaged frames(?s:.*)No such file"):
        next(loader.epoch(0))
    assert len(loader.take_bad_frames()) == 24


def test_a_share_of_the_epoch_may_be_damaged(folder, load_clips):
    assert load_clips(folder, "data.bad_frames=0.5").max_bad_frames == 13 * 4 // 2


def test_a_frame_that_is_no_image_is_named_and_the_loader_lives_on(own, load_clips):
    path = own / "train.frames.npy"
    table = np.load(path)
    table["size"][0], table["crc32"][0] = 0, 0  # nothing, and that with the right checksum
    np.save(path, table)
    loader = load_clips(own, "clip.num_segments=6", training=False)
    with pytest.raises(RuntimeError, match=r"videos \[0, 1\] of split train does not decode"):
        next(loader.epoch(0))
    assert next(loader.epoch(0, 1)).clips.tolist() == [2, 3]


# Settings


def test_a_batch_that_ranks_do_not_divide_is_refused(folder):
    with pytest.raises(ConfigError, match="4 clips a pass, which 3 ranks do not divide"):
        ClipLoader(folder, "train", load(None, SETTINGS), training=True, world_size=3)


def test_a_batch_larger_than_the_split_is_refused(folder):
    config = load(None, [*SETTINGS, "train.batch=14"])
    with pytest.raises(ConfigError, match="train.batch 14 is more than the 13 videos"):
        ClipLoader(folder, "train", config, training=True)
