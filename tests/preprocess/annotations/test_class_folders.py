"""Folders of classes, with and without splits, frames and folders around them."""

import pytest

from preprocess.annotations.class_folders import read_folders
from preprocess.annotations.labels import AnnotationError

CLASSES = ["hit/b.mp4", "run/a.mp4"]
SPLITS = ["train/hit/b.mp4", "train/run/a.mp4", "val/hit/c.mp4"]
FRAMES = ["hit/v1/img_1.jpg", "hit/v1/img_2.jpg", "run/v2/img_1.jpg"]
DEEPER = ["hit/day 1/b.mp4", "run/day 2/c.mp4"]


def make(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("outer", ["", "videos/", "data/videos/"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (CLASSES, [("hit/b.mp4", "hit", ""), ("run/a.mp4", "run", "")]),
        (
            SPLITS,
            [
                ("train/hit/b.mp4", "hit", "train"),
                ("train/run/a.mp4", "run", "train"),
                ("val/hit/c.mp4", "hit", "val"),
            ],
        ),
        (FRAMES, [("hit/v1", "hit", ""), ("run/v2", "run", "")]),
        (DEEPER, [("hit/day 1/b.mp4", "hit", ""), ("run/day 2/c.mp4", "run", "")]),
    ],
)
def test_layouts_may_lie_deeper(tmp_path, outer, names, expected):
    make(tmp_path, [outer + name for name in names])
    found = [(video.path, video.labels[0], video.split) for video in read_folders(tmp_path)]
    assert found == [(outer + path, label, split) for path, label, split in expected]


def test_a_single_class_is_not_taken_for_a_folder_around_classes(tmp_path):
    make(tmp_path, ["hit/a.mp4"])
    make(tmp_path / "frames", FRAMES[:2])
    assert [video.labels for video in read_folders(tmp_path / "frames")] == [("hit",)]


def test_a_split_beside_a_class_is_an_error(tmp_path):
    make(tmp_path, [*SPLITS, "extra/d.mp4", "notes/readme.txt"])
    with pytest.raises(AnnotationError, match="has a folder train, .* and a folder extra, which"):
        read_folders(tmp_path)
    (tmp_path / "extra" / "d.mp4").unlink()
    (tmp_path / "extra").rmdir()
    assert len(read_folders(tmp_path)) == 3  # a folder without videos is not a class


def test_videos_without_a_folder_of_their_class_are_an_error(tmp_path):
    make(tmp_path, ["a.mp4", "b.mp4"])
    with pytest.raises(AnnotationError, match="2 videos lie directly in the folder"):
        read_folders(tmp_path)
