"""The summary of a dataset: counts by class and split, and warnings about what disappoints."""

import shutil
from pathlib import Path

import numpy as np
from synthetic_videos import noise_frames, shard_config, write_clip, write_labels

from preprocess.convert import shard
from preprocess.summary import Summary, summarize


def dataset(tmp_path: Path, rows: list[tuple[str, str, str]], *settings: str) -> Summary:
    """Return the summary of a dataset of (path, label, split); each path is another video."""
    for number, (path, _, _) in enumerate(rows):
        generator = np.random.default_rng(number)
        frames = [generator.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2)]
        if not (tmp_path / "s" / path).exists():
            write_clip(tmp_path / "s" / path, frames)
    write_labels(
        tmp_path / "labels.csv",
        [{"path": path, "labels": label, "split": split} for path, label, split in rows],
    )
    labels = f"shard.labels={tmp_path / 'labels.csv'}"
    shard(shard_config(tmp_path / "s", labels, *settings), tmp_path / "d")
    return summarize(tmp_path / "d")


def test_classes_are_counted_in_each_split(tmp_path):
    rows = [(f"{i}.mp4", "ab"[i % 2], "train") for i in range(6)]
    found = dataset(tmp_path, [*rows, ("v.mp4", "a", "val"), ("w.mp4", "b", "val")])
    assert list(found.lines())[:4] == [
        "class   train     val",
        "a           3       1",
        "b           3       1",
        "2 classes; videos: 6 in train, 2 in val",
    ]
    assert found.warnings == ("2 classes (a, b) have fewer than 10 videos in train",)


def test_imbalance_and_missing_classes_are_named(tmp_path):
    rows = [(f"{i}.mp4", "a", "train") for i in range(10)]
    found = dataset(tmp_path, [*rows, ("b.mp4", "b", "train"), ("v.mp4", "a", "val")])
    assert found.warnings == (
        "the classes are imbalanced: 10 videos of 'a' against 1 of 'b'",
        "class b has fewer than 10 videos in train",
        "class b has no video in val",
    )


def test_one_class_and_one_split_are_named(tmp_path):
    found = dataset(tmp_path, [("a.mp4", "a", "train")])
    assert "only one class" in found.warnings[0]
    assert "train is the only split" in found.warnings[1]


def test_equal_videos_are_found_by_content(tmp_path):
    first = write_clip(tmp_path / "s" / "1.mp4", noise_frames(3, 32))
    for name in ("2.mp4", "3.mp4"):
        shutil.copy(first, tmp_path / "s" / name)
    rows = [
        ("1.mp4", "a", "train"),
        ("2.mp4", "a", "val"),
        ("3.mp4", "b", "train"),
        ("4.mp4", "b", "val"),
    ]
    found = dataset(tmp_path, rows)
    splits, labels = found.warnings[-2:]
    # The shards have a random order, so either of the equal videos may come first.
    assert splits.startswith("the same video is in two splits, which makes results look better")
    assert "2.mp4 (val)" in splits
    assert labels.startswith("the same video is under two labels (1 pairs): ") or "3.mp4" in labels
    assert "4.mp4" not in splits + labels
