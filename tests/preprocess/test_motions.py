"""The classes of the demo's videos can be told from the order of frames, and only from it."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from synthetic_videos import shard_config

from configs.schema import ShardSettings
from preprocess.annotations.mirror import left_right
from preprocess.convert import ShardResult, shard
from preprocess.decode import probe
from preprocess.motions import NUM_FRAMES, PAIRS, Motion, draw_motion, make_motions, render
from preprocess.shards import open_split, read_info
from preprocess.videos import encode_video


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    """A folder of 16 videos of split train and 8 of split val."""
    folder = tmp_path_factory.mktemp("motions")
    make_motions(folder, train=16, val=8)
    return folder


@pytest.fixture(scope="module")
def rows(motions):
    with (motions / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def decoded(path: Path) -> np.ndarray:
    """Return the frames of a video, `(T, H, W, 3)`."""
    jpegs = encode_video(path, ShardSettings(quality=100)).jpegs
    return np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])


def test_every_class_is_as_frequent_as_its_opposite(rows):
    for split, count in (("train", 2), ("val", 1)):
        labels = Counter(row["labels"] for row in rows if row["split"] == split)
        assert labels == {name: count for pair in PAIRS for name in pair}


def test_the_files_are_h264_with_key_frames_only(motions, rows):
    import av

    for row in rows[:4]:
        info = probe(motions / row["path"])
        assert (info.width, info.height) == (64, 64)
        assert NUM_FRAMES[0] <= info.num_frames <= NUM_FRAMES[1]
    with av.open(str(motions / rows[0]["path"])) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert all(frame.key_frame for frame in container.decode(video=0))


def test_a_clip_and_its_reverse_have_the_same_frames(motions, rows):
    opposite = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert opposite[one["labels"]] == two["labels"]
        np.testing.assert_array_equal(
            decoded(motions / one["path"]), decoded(motions / two["path"])[::-1]
        )


@pytest.mark.parametrize("num_segments", [4, 8, 16])
def test_the_middles_of_segments_are_the_same_frames_in_reverse(num_segments):
    """A model that ignores the order of frames then sees the same in both clips of a pair."""
    for num_frames in range(NUM_FRAMES[0], NUM_FRAMES[1] + 1):
        middles = (2 * np.arange(num_segments) + 1) * num_frames // (2 * num_segments)
        assert (num_frames - 1 - middles[::-1] == middles).all()


def changes(*classes: str) -> np.ndarray:
    """Return the change of x, y, log radius and angle from frame to frame, `(4, T - 1)`."""
    motion = draw_motion(classes, np.random.default_rng(0))
    return np.diff([motion.x, motion.y, np.log(motion.radius), motion.angle], axis=1)


@pytest.mark.parametrize("axis", range(4))
def test_a_motion_changes_one_value_in_one_direction(axis):
    for name, sign in zip(PAIRS[axis], (-1, 1), strict=True):
        change = changes(name)
        assert (sign * change[axis] > 0).all()
        assert (np.delete(change, axis, axis=0) == 0).all()


def test_two_motions_change_two_values():
    change = changes("left", "clockwise")
    assert (change[0] < 0).all() and (change[3] > 0).all() and (change[1:3] == 0).all()


def test_two_motions_are_two_labels_and_all_mixes_are_equally_frequent(tmp_path):
    make_motions(tmp_path, train=24, val=3, size=16, motions=2)
    with (tmp_path / "labels.csv").open() as file:
        made = [row["labels"].split(";") for row in csv.DictReader(file) if row["split"] == "train"]
    assert len({frozenset(labels) for labels in made}) == 24  # 6 pairs of axes, 4 mixes each
    assert all(
        count == 6 for count in Counter(label for labels in made for label in labels).values()
    )
    opposite = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
    for one, two in zip(made[::2], made[1::2], strict=True):
        assert [opposite[label] for label in one] == two  # no frame tells them apart
    config = shard_config(
        tmp_path, f"shard.labels={tmp_path / 'labels.csv'}", "shard.multi_label=true"
    )
    assert shard(config, tmp_path / "d") == ShardResult(27, 0)
    assert read_info(tmp_path / "d").multi_label
    split = open_split(tmp_path / "d", "train")
    assert [len(split.labels_of(video)) for video in range(24)] == [2] * 24


def test_the_shape_moves_in_the_direction_of_its_label(motions, rows):
    directions = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    for row in rows:
        if row["labels"] in directions:
            shape = decoded(motions / row["path"]).mean(-1) > 128  # bright on dark ground
            first_y, first_x = np.argwhere(shape[0]).mean(0)
            last_y, last_x = np.argwhere(shape[-1]).mean(0)
            moved = (last_x - first_x, last_y - first_y)
            assert np.dot(moved, directions[row["labels"]]) > 10, row  # pixels


def test_a_clockwise_turn_is_clockwise_on_the_screen():
    """A pixel to the right of the center was above the center a quarter turn before."""
    motion = Motion(
        x=np.full(2, 0.5),
        y=np.full(2, 0.5),
        radius=np.full(2, 0.4),
        angle=np.array([0.0, np.pi / 2]),
    )
    before, after = render(motion, 64, np.random.default_rng(0)).astype(int)
    middle = slice(24, 40)  # inside the shape
    turned = np.rot90(before, -1)  # clockwise
    error = np.abs(after[middle, middle] - turned[middle, middle]).mean()
    wrong = np.abs(after[middle, middle] - np.rot90(before, 1)[middle, middle]).mean()
    assert error < 6 < wrong  # noise of up to 6 levels


def test_the_same_seed_makes_the_same_files(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_motions(tmp_path / name, train=4, val=1, size=32, seed=seed)
    files = ["train/00000.mp4", "val/00000.mp4", "labels.csv"]
    data = {name: [(tmp_path / name / file).read_bytes() for file in files] for name in "abc"}
    assert data["a"] == data["b"] and data["a"][:2] != data["c"][:2]
    assert data["a"][0] != data["a"][1]  # the splits have different videos


def test_impossible_sizes_are_rejected(tmp_path):
    with pytest.raises(
        ValueError, match="size must be an even number of at least 16 pixels, not 33"
    ):
        make_motions(tmp_path, train=1, val=1, size=33)
    with pytest.raises(ValueError, match="motions must be a number from 1 to 4, not 5"):
        make_motions(tmp_path, train=1, val=1, motions=5)


def test_the_demo_can_be_sharded(motions, tmp_path):
    config = shard_config(motions, f"shard.labels={motions / 'labels.csv'}")
    assert shard(config, tmp_path / "d") == ShardResult(24, 0)
    info = read_info(tmp_path / "d")
    assert info.splits == {"train": 16, "val": 8}
    assert sorted(info.classes) == sorted(name for pair in PAIRS for name in pair)
    mirror = dict(zip(info.classes, left_right(info.classes), strict=True))
    assert info.classes[mirror["left"]] == "right" and info.classes[mirror["up"]] == "up"
    assert info.classes[mirror["clockwise"]] == "counter-clockwise"
    assert open_split(tmp_path / "d", "val").videos["width"].tolist() == [64] * 8
