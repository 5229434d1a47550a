"""Folds: groups stay together, each video is held out once, and the parts are true tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_dataset import color, write_dataset

from configs.load import ConfigError, load
from pipeline.folds import fold_numbers, open_part, subset
from pipeline.loader import ClipLoader
from preprocess.shards import Split, open_split
from preprocess.tables import GROUP

NUM_VIDEOS = 24


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    """24 videos of two classes and of 12 groups of two videos; the second class has 4 groups."""
    labels = [["left"]] * 16 + [["right"]] * 8
    folder = write_dataset(tmp_path_factory.mktemp("d") / "d", [6] * NUM_VIDEOS, labels=labels)
    groups = np.random.default_rng(0).permutation(12).astype(GROUP)[np.arange(NUM_VIDEOS) // 2]
    return replace(open_split(folder, "train"), groups=groups)


def test_groups_stay_together_and_classes_are_spread(split):
    folds = fold_numbers(split, 4)
    assert np.array_equal(folds[::2], folds[1::2])
    for fold in range(4):
        assert np.count_nonzero(folds[:16] == fold) == 4  # 2 of the 8 groups of the first class
        assert np.count_nonzero(folds[16:] == fold) == 2  # 1 of the 4 groups of the second class


def test_the_parts_of_a_split_have_its_labels_keys_and_frames(split):
    rows = np.array([1, 5, 17, 23])
    part = subset(split, rows)
    assert part.num_videos == 4
    assert [part.labels_of(i).tolist() for i in range(4)] == [[0], [0], [1], [1]]
    assert part.keys() == ["video1", "video5", "video17", "video23"]
    assert part.videos["first_frame"].tolist() == [6, 30, 102, 138]
    assert np.array_equal(part.groups, split.groups[rows])


def test_a_part_of_a_split_with_several_labels_a_video_has_them_all(tmp_path):
    labels = [["left", "still"], [], ["right"]]
    split = open_split(
        write_dataset(tmp_path / "d", [6] * 6, labels=labels, multi_label=True), "train"
    )
    part = subset(split, np.array([0, 1, 4, 5]))
    assert [part.labels_of(i).tolist() for i in range(4)] == [[0, 2], [], [], [1]]


def with_groups(monkeypatch, split: Split) -> Path:
    """Make `open_split` of the dataset return the groups, which its helper does not write."""
    monkeypatch.setattr("pipeline.folds.open_split", lambda folder, name: split)
    return split.folder


def test_each_video_is_held_out_once_and_never_trained_on_then(split, monkeypatch):
    folder = with_groups(monkeypatch, split)
    held: list[str] = []
    for fold in range(3):
        data = load(None, ["data.folds=3", f"data.fold={fold}"]).data
        part = open_part(folder, "fold", data, training=False).keys()
        trained = open_part(folder, "train", data, training=True).keys()
        assert not set(part) & set(trained) and len(part) + len(trained) == NUM_VIDEOS
        assert len(open_part(folder, "train", data, training=False).keys()) == NUM_VIDEOS
        held += part
    assert sorted(held) == sorted(split.keys())


def test_the_loader_reads_the_frames_of_the_held_out_videos(split, monkeypatch):
    folder = with_groups(monkeypatch, split)
    settings = ["clip.num_segments=2", "clip.crop=16", "clip.resize=24", "run.threads=1"]
    config = load(None, ["data.folds=3", "data.fold=1", "test.batch=8", *settings])
    loader = ClipLoader(folder, "fold", config, training=False)
    (batch,) = loader.epoch(0)
    keys = loader.split.keys()
    loader.close()
    assert len(keys) == 8
    for row, key in enumerate(keys):
        red = batch.x[row, 0, 0, 0, :, 0, 0].float().mean()
        video = int(key.removeprefix("video"))
        assert red == pytest.approx(color(video, 0)[0], abs=6)
        assert batch.labels[row] == (video >= 16)


def test_more_folds_than_groups_are_rejected(split):
    with pytest.raises(ConfigError, match="has 12 groups, which data.folds 13 cannot divide"):
        fold_numbers(split, 13)


def test_a_dataset_without_groups_is_rejected(tmp_path):
    folder = write_dataset(tmp_path / "d", [6] * 8)
    data = load(None, ["data.folds=2"]).data
    with pytest.raises(ConfigError, match=r"data\.folds=2 needs the groups .*`tin shard`"):
        open_part(folder, "fold", data, training=False)
