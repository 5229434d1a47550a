"""Copies of shards that no longer equal their originals are replaced by links."""

import os
import shutil

import pytest
from synthetic_dataset import write_dataset

from preprocess.copies import replace_changed
from preprocess.tars import ShardError


@pytest.fixture
def folders(tmp_path):
    """Return an original dataset of three shards, and a copy of it."""
    original = write_dataset(tmp_path / "original", [3] * 6, per_shard=2)
    return original, shutil.copytree(original, tmp_path / "copy")


def test_an_intact_copy_stays(folders):
    original, copy = folders
    assert replace_changed(copy, original, "train") == []
    assert not any(path.is_symlink() for path in copy.iterdir())


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("change", ["size", "time"])
def test_a_shard_that_changed_on_either_side_is_read_from_its_original(folders, place, change):
    original, copy = folders
    path = folders[place] / "train-00001.tar"
    if change == "size":
        os.truncate(path, 1000)
    else:
        os.utime(path, (1000, 1000))
    assert replace_changed(copy, original, "train") == ["train-00001.tar"]
    assert (copy / "train-00001.tar").readlink() == original / "train-00001.tar"
    assert replace_changed(copy, original, "train") == []


def test_a_deleted_copy_is_read_from_its_original(folders):
    original, copy = folders
    (copy / "train-00002.tar").unlink()
    assert replace_changed(copy, original, "train") == ["train-00002.tar"]


def test_a_missing_original_is_named(folders):
    original, copy = folders
    (original / "train-00002.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00002\.tar: the original .* is missing"):
        replace_changed(copy, original, "train")


def test_another_dataset_in_place_of_the_original_is_an_error(folders, tmp_path):
    original, copy = folders
    shutil.rmtree(original)
    write_dataset(original, [4] * 6, per_shard=2)
    with pytest.raises(ShardError, match="is another dataset than when it was copied"):
        replace_changed(copy, original, "train")
