"""Labels of batches, damaged frames, and batch sizes that are rejected."""

import numpy as np
import pytest
import torch
from synthetic_dataset import SETTINGS, clip_loaders, color, flip_byte, left_color, write_dataset

from configs.load import ConfigError, load
from pipeline.batches import BadDataError
from pipeline.loader import ClipLoader, DecodeError
from pipeline.plan import Order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """13 videos of 2 frames."""
    return write_dataset(tmp_path_factory.mktemp("batches") / "tiny", [2] * 13)


@pytest.fixture
def damaged(tmp_path):
    """Four videos of 6 frames, which a test may damage."""
    return write_dataset(tmp_path / "damaged", [6] * 4, per_shard=2)


@pytest.fixture
def load_clips():
    with clip_loaders() as make:
        yield make


# Labels


def test_each_clip_has_the_label_of_its_video(folder, load_clips):
    for batch in load_clips(folder).epoch(0):
        assert batch.labels.tolist() == [clip % 3 for clip in batch.clips.tolist()]
    last = list(load_clips(folder, training=False).epoch(0))[-1]
    assert last.clips.tolist() == [12, -1]
    assert last.labels.tolist() == [0, -1]


def test_mirrored_clips_swap_left_and_right_labels_if_the_setting_says_so(folder, load_clips):
    plain = load_clips(folder, "augment.flip=random")
    swapped = load_clips(folder, "augment.flip=labels")
    changed = 0
    for one, two in zip(plain.epoch(0), swapped.epoch(0), strict=True):
        assert torch.equal(one.x, two.x)
        pairs = list(zip(one.labels.tolist(), two.labels.tolist(), strict=True))
        assert set(pairs) <= {(0, 0), (1, 1), (2, 2), (0, 1), (1, 0)}
        changed += sum(a != b for a, b in pairs)
    assert 0 < changed < 12


def test_several_labels_become_a_row_of_zeros_and_ones(tmp_path, load_clips):
    labels = [("left", "still"), (), ("right",)]
    folder = write_dataset(tmp_path / "multi", [2] * 4, labels=labels, multi_label=True)
    rows = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 1]])
    (batch,) = load_clips(folder).epoch(0)
    assert torch.equal(batch.labels, rows[batch.clips])
    loader = load_clips(folder, "augment.flip=labels", "train.batch=1")
    mirrored = [b.labels[0] for b in loader.epoch(0) if b.clips[0] == 0]
    assert mirrored[0].tolist() in ([1, 0, 1], [0, 1, 1])


def test_the_label_of_a_split_without_labels_is_minus_one(tmp_path, load_clips):
    folder = write_dataset(tmp_path / "none", [2] * 4, labels=[()])
    (batch,) = load_clips(folder, "augment.flip=labels").epoch(0)
    assert batch.labels.tolist() == [-1] * 4


# Damage


def test_damaged_frames_are_replaced_and_reported_once_per_batch(damaged, load_clips):
    flip_byte(damaged, 1, 2)
    loader = load_clips(damaged, "clip.num_segments=6", training=False)
    expected = [color(1, frame) for frame in (0, 1, 1, 3, 4, 5)]
    iterator = loader.epoch(0)
    found = left_color(next(iterator).x[1, 0, :, 0]).numpy()
    assert found == pytest.approx(np.array(expected), abs=4)
    (bad,) = loader.take_bad_frames()
    assert (bad.clip, bad.frame) == (1, 2)
    assert loader.take_bad_frames() == []
    next(iterator)
    assert loader.take_bad_frames() == []
    next(loader.epoch(0, 1))  # a position after the damaged frame
    assert loader.take_bad_frames() == []


def test_evaluation_leaves_out_a_video_without_a_good_frame(damaged, load_clips):
    for frame in range(6):
        flip_byte(damaged, 2, frame)
    loader = load_clips(damaged, training=False)
    batches = list(loader.epoch(0))
    assert [batch.clips.tolist() for batch in batches] == [[0, 1], [3, -1]]
    assert [bad.clip for bad in loader.take_bad_frames()] == [2] * 4
    assert batches[1].labels.tolist() == [0, -1]
    assert not batches[1].x[1].any()


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_replaces_a_video_without_a_good_frame(damaged, load_clips, world_size):
    order = Order(0, 4).clips(0, np.arange(4)).tolist()
    for frame in range(6):
        flip_byte(damaged, order[1], frame)
    ranks = [
        list(load_clips(damaged, rank=rank, world_size=world_size).epoch(0))
        for rank in range(world_size)
    ]
    clips = torch.cat([rank[0].clips for rank in ranks]).tolist()
    assert clips == [order[0], order[2], order[2], order[3]]
    x = torch.cat([rank[0].x for rank in ranks])
    assert torch.equal(x[1], x[2])


def test_too_many_damaged_frames_stop_the_loader_with_a_list(damaged, load_clips):
    for video in range(3):
        for frame in range(6):
            flip_byte(damaged, video, frame)
    loader = load_clips(damaged, "clip.num_segments=8", training=False)
    assert loader.max_bad_frames == 20  # the first step has 16, the second one makes it 24
    iterator = loader.epoch(0)
    next(iterator)
    with pytest.raises(BadDataError, match=r"24 damaged frames(?s:.*)video 0 frame 0: .*crc32"):
        next(iterator)
    assert len(loader.take_bad_frames()) == 24


def test_training_stops_if_all_shards_are_missing(damaged, load_clips):
    for path in damaged.glob("*.tar"):
        path.unlink()
    loader = load_clips(damaged, "clip.num_segments=6")  # four clips: more than 20 in one batch
    with pytest.raises(BadDataError, match="24 damaged frames(?s:.*)No such file"):
        next(loader.epoch(0))
    assert len(loader.take_bad_frames()) == 24


def test_the_limit_of_damaged_frames_is_a_share_of_the_epoch(folder, load_clips):
    assert load_clips(folder, "data.bad_frames=0.5").max_bad_frames == 13 * 4 // 2


def test_the_loader_can_be_used_after_a_frame_that_cannot_be_decoded(damaged, load_clips):
    path = damaged / "train.frames.npy"
    table = np.load(path)
    table["size"][0] = 0  # an empty frame
    table["crc32"][0] = 0  # its correct checksum
    np.save(path, table)
    loader = load_clips(damaged, "clip.num_segments=6", training=False)
    with pytest.raises(DecodeError, match=r"videos \[0, 1\] of split train cannot be decoded"):
        next(loader.epoch(0))
    assert next(loader.epoch(0, 1)).clips.tolist() == [2, 3]


# Settings


def test_a_batch_that_the_ranks_do_not_divide_is_rejected(folder):
    with pytest.raises(ConfigError, match="4 clips per pass, which 3 ranks do not divide"):
        ClipLoader(folder, "train", load(None, SETTINGS), training=True, world_size=3)


def test_a_batch_larger_than_the_split_is_rejected(folder):
    config = load(None, [*SETTINGS, "train.batch=14"])
    with pytest.raises(ConfigError, match="train.batch 14 is more than the 13 videos"):
        ClipLoader(folder, "train", config, training=True)
