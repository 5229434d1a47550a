"""A changed dataset is found before its first frame is read."""

import random
import shutil

import numpy as np
import pytest
from synthetic_dataset import write_dataset

from preprocess.integrity import check_dataset
from preprocess.shards import open_split
from preprocess.tables import TABLES
from preprocess.tars import ShardError
from preprocess.verify import verify


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A dataset of ten videos in three shards."""
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [5] * 10)


@pytest.fixture
def dataset(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "tiny")


def test_an_intact_dataset_passes(intact):
    check_dataset(intact, ["train", "train"])


@pytest.mark.parametrize("name", ["train.labels.npy", "train.videos.npy", "train.frames.npy"])
def test_shifted_rows_of_a_table_are_found(dataset, name):
    """The shapes and types stay the same, so nothing else would notice."""
    table = np.load(dataset / name)
    np.save(dataset / name, np.roll(table, 1))
    open_split(dataset, "train")
    with pytest.raises(ShardError, match=rf"{name}: its sha256 differs.*`tin data merge`"):
        check_dataset(dataset, ["train"])


def test_a_changed_csv_is_found(dataset):
    path = dataset / "train.csv"
    path.write_text(path.read_text().replace("video3", "video9"))
    with pytest.raises(ShardError, match=r"train\.csv: its sha256 differs"):
        check_dataset(dataset, ["train"])


def test_changed_classes_are_found(dataset):
    path = dataset / "dataset.yaml"
    path.write_text(path.read_text().replace("- left", "- lift"))
    with pytest.raises(ShardError, match=r"dataset\.yaml: its content does not match its digest"):
        check_dataset(dataset, ["train"])


def test_a_missing_shard_is_found(dataset):
    (dataset / "train-00001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00001\.tar: No such file"):
        check_dataset(dataset, ["train"])


@pytest.mark.parametrize("size", [0, 600, -1024, -1, 1])
def test_a_shard_of_another_size_is_found(dataset, size):
    path = dataset / "train-00002.tar"
    data = path.read_bytes()
    path.write_bytes(data + b"x" if size == 1 else data[:size])
    with pytest.raises(ShardError, match=r"train-00002\.tar: .*expected|truncated or damaged"):
        check_dataset(dataset, ["train"])


def test_each_of_500_flipped_bits_of_a_table_is_found(dataset):
    draws = random.Random(0)
    names = [*(f"train.{table}.npy" for table in TABLES), "train.csv"]
    for _ in range(500):
        path = dataset / draws.choice(names)
        data = path.read_bytes()
        flipped = bytearray(data)
        flipped[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ShardError, match=path.name.replace(".", r"\.")):
            check_dataset(dataset, ["train"])
        path.write_bytes(data)


def test_a_sample_reads_other_shards_each_time_and_finds_damage_at_last(tmp_path, monkeypatch):
    from synthetic_videos import gray_frames, shard_config, write_clip

    from preprocess.convert import shard

    for index in range(12):
        write_clip(tmp_path / "s" / "ab"[index % 2] / f"{index}.mp4", gray_frames(5))
    folder = tmp_path / "d"
    shard(shard_config(tmp_path / "s"), folder)
    assert verify(folder, 0.3) == []
    shards = sorted(folder.glob("*.tar"))
    assert len(shards) > 2
    data = bytearray(shards[1].read_bytes())
    data[600] ^= 0xFF  # inside the first frame
    shards[1].write_bytes(data)
    for _ in range(60):
        problems = verify(folder, 0.3)
        if problems:
            break
    assert "train-00001.tar" in problems[0]
    shards[0].unlink()  # a missing shard is found by every sample
    assert any("train-00000.tar" in text for text in verify(folder, 0.01))
