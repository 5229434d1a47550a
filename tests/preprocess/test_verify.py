"""`verify` finds every kind of damage, and none in an intact dataset."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from synthetic_shards import record, write_shard
from synthetic_videos import gray_frames, shard_config, write_clip

from preprocess.convert import merge, shard
from preprocess.shards import open_split
from preprocess.verify import verify


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A dataset of six videos of 5 frames in two shards."""
    folder = tmp_path_factory.mktemp("verify")
    for index in range(6):
        write_clip(folder / "s" / "ab"[index % 2] / f"{index}.mp4", gray_frames(5))
    shard(shard_config(folder / "s"), folder / "d")
    return folder / "d"


@pytest.fixture
def dataset(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "d")


def flip(path: Path, position: int) -> None:
    """Invert a byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def test_an_intact_dataset_has_no_problems(intact):
    assert verify(intact) == []


def test_a_changed_byte_in_a_frame_is_reported(dataset):
    split = open_split(dataset, "train")
    frame = split.frames[7]  # frame 2 of the second video
    key = split.keys()[1]
    flip(split.shard_path(frame["shard"]), int(frame["offset"] + frame["size"] // 2))
    (problem,) = verify(dataset)
    assert problem.startswith(f"{dataset}/train-00000.tar: {key} frame 2: found crc32 ")
    assert f"expected {frame['crc32']};" in problem


def test_a_truncated_shard_is_reported(dataset):
    path = dataset / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:-2000])
    problems = verify(dataset)
    assert all("train-00001.tar" in problem for problem in problems) and problems
    assert "Delete the file and run `tin shard` again." in problems[0]


def test_a_missing_shard_is_reported(dataset):
    (dataset / "train-00001.tar").unlink()
    assert "train-00001.tar: " in verify(dataset)[0] and "No such file" in verify(dataset)[0]


def test_a_frame_that_is_not_a_jpeg_or_has_another_size_is_reported(dataset):
    good = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    wide = simplejpeg.encode_jpeg(np.zeros((16, 32, 3), np.uint8))
    write_shard(dataset / "train-00001.tar", [(record("x", ("a",)), [good, b"no jpeg", wide])])
    merge(dataset)
    problems = verify(dataset)
    assert len(problems) == 2
    assert "train-00001.tar: x frame 1: " in problems[0]
    assert "train-00001.tar: x frame 2: found 32x16 pixels, expected 16x16" in problems[1]


@pytest.mark.parametrize("table", ["videos.npy", "frames.npy", "labels.npy", "csv"])
def test_a_changed_table_is_reported(dataset, table):
    flip(dataset / f"train.{table}", -3)
    problems = verify(dataset)
    assert any("its sha256 differs from dataset.yaml" in problem for problem in problems)
    assert any(
        "differs from train-00001.tar. Run `tin data merge`" in problem for problem in problems
    )
    merge(dataset)
    assert verify(dataset) == []


def test_a_changed_list_of_classes_is_reported(dataset):
    path = dataset / "dataset.yaml"
    path.write_text(path.read_text().replace("- a\n- b\n", "- b\n- a\n"))
    assert any("content does not match its digest" in problem for problem in verify(dataset))


def test_a_table_of_another_dataset_is_reported(dataset, tmp_path):
    write_clip(tmp_path / "s" / "a" / "0.mp4", gray_frames(5))
    shard(shard_config(tmp_path / "s"), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "train.videos.npy", dataset)
    assert any("1 videos, but dataset.yaml says 6" in problem for problem in verify(dataset))


def test_a_folder_without_a_dataset_is_reported(tmp_path):
    (problem,) = verify(tmp_path)
    assert "dataset.yaml is missing" in problem
