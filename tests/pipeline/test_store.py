"""Reading frames: the bytes, and the frames that replace damaged ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from synthetic_dataset import flip_byte, frame_image, jpeg, write_dataset

from pipeline.store import FrameStore
from preprocess.shards import open_split


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path / "tiny", [6, 3, 4, 5], per_shard=2)


@pytest.fixture
def store(folder):
    store = FrameStore(open_split(folder, "train"), readers=2)
    yield store
    store.close()


def encoded(video: int, frame: int) -> bytes:
    return jpeg(frame_image(video, frame, 32, 24))


def test_planned_frames_are_read_even_if_one_is_planned_twice(store):
    futures = store.start(np.array([1, 3]), np.array([[0, 2, 2], [4, 0, 1]]))
    found = [[data.tobytes() for data in future.result().jpegs] for future in futures]
    assert found == [[encoded(1, f) for f in (0, 2, 2)], [encoded(3, f) for f in (4, 0, 1)]]
    assert not any(future.result().bad_frames for future in futures)


def test_the_nearest_good_frame_replaces_a_frame_with_a_flipped_byte(folder, store):
    flip_byte(folder, 0, 2)
    clip = store.read(0, [1, 2, 5])
    assert [data.tobytes() for data in clip.jpegs] == [encoded(0, f) for f in (1, 1, 5)]
    (bad,) = clip.bad_frames
    assert (bad.clip, bad.frame) == (0, 2)
    assert "crc32" in bad.reason
    assert "frame 1 is used" in bad.reason


def test_a_later_frame_replaces_a_damaged_one_if_no_earlier_frame_is_as_near(folder, store):
    for frame in (0, 1):
        flip_byte(folder, 0, frame)
    clip = store.read(0, [0, 1])
    assert [data.tobytes() for data in clip.jpegs] == [encoded(0, 2)] * 2
    assert [bad.frame for bad in clip.bad_frames] == [0, 1]


def test_a_video_without_a_good_frame_gives_no_frame_and_reports_all_planned_ones(folder, store):
    for frame in range(3):
        flip_byte(folder, 1, frame)
    clip = store.read(1, [0, 2])
    assert clip.jpegs == []
    assert [bad.frame for bad in clip.bad_frames] == [0, 2]
    assert all("no good frame" in bad.reason for bad in clip.bad_frames)


def test_a_truncated_shard_loses_only_the_frames_that_were_cut_off(folder, store):
    split = open_split(folder, "train")
    last = split.frames[split.videos["first_frame"][2] + 2]
    os.truncate(split.shard_path(1), int(last["offset"]) + 5)
    clip = store.read(2, [0, 1, 2, 3])
    assert [data.tobytes() for data in clip.jpegs] == [encoded(2, f) for f in (0, 1, 1, 1)]
    assert [bad.frame for bad in clip.bad_frames] == [2, 3]
    assert f"ends after 5 of {last['size']} bytes" in clip.bad_frames[0].reason
    assert store.read(3, [0]).jpegs == []
    assert len(store.read(0, [0]).jpegs) == 1


def test_a_missing_shard_is_reported_with_its_path(folder, store):
    path = open_split(folder, "train").shard_path(1)
    path.unlink()
    clip = store.read(2, [0])
    assert clip.jpegs == []
    assert f"{path}: No such file" in clip.bad_frames[0].reason


def test_the_number_of_open_shards_stays_below_the_limit_of_the_process(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "many", [2] * 12, per_shard=1)
    monkeypatch.setattr("resource.getrlimit", lambda _: (6, 6))  # three may be open
    store = FrameStore(open_split(folder, "train"), readers=4)
    for future in store.start(np.arange(12).repeat(5), np.ones((60, 1), int)):
        assert future.result().jpegs
    assert open_tars(folder) == 3
    store.close()
    assert open_tars(folder) == 0


def open_tars(folder) -> int:
    targets = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    return sum(target.suffix == ".tar" and target.parent == folder for target in targets)
