"""A dataset is read back as it was written, its shards are plain tar files, damage is reported."""

import io
import shutil
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
import simplejpeg
from synthetic_shards import record, write_shard

from configs.load import ConfigError
from preprocess.shard_rows import read_rows
from preprocess.shards import (
    FORMAT,
    DatasetInfo,
    open_split,
    read_info,
    write_info,
    write_split,
)
from preprocess.tars import ShardError, read_shard

CLASSES = ("left", "1e-3", "no")  # YAML would read the last two as a number and as false


def jpeg(value: int, size: int = 16) -> bytes:
    """Return a gray JPEG."""
    return simplejpeg.encode_jpeg(np.full((size, size, 3), value, np.uint8), colorsubsampling="420")


@pytest.fixture
def dataset(tmp_path):
    """A dataset of three videos in two shards: 2, 1 and 3 frames, with 1, 0 and 2 labels."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    one = [(record("a"), [jpeg(10), jpeg(20)]), (record("b", ()), [jpeg(30)])]
    two = [(record("c", ("no", "left")), [jpeg(40), jpeg(50), jpeg(60)])]
    write_shard(folder / "train-00000.tar", one)
    write_shard(folder / "train-00001.tar", two)
    index = {name: i for i, name in enumerate(CLASSES)}
    rows = [read_rows(folder, "train", shard, index) for shard in (0, 1)]
    tables = write_split(folder, "train", rows)
    info = DatasetInfo(
        format=FORMAT,
        classes=CLASSES,
        splits={"train": 3},
        multi_label=True,
        left_right=(0, 1, 2),
        short_side=256,
        quality=90,
        fps=0.0,
        frame_cap=0,
        videos_per_shard=2,
        seed=0,
        annotations="",
        tool={},
        tables=tables,
        digest="",
    )
    write_info(folder, info)
    return folder


def test_the_tables_locate_every_frame(dataset):
    split = open_split(dataset, "train")
    assert split.num_videos == 3 and split.keys() == ["a", "b", "c"]
    assert split.videos["num_frames"].tolist() == [2, 1, 3]
    assert split.videos["first_frame"].tolist() == [0, 2, 3]
    assert [split.labels_of(i).tolist() for i in range(3)] == [[0], [], [2, 0]]
    assert split.frames["shard"].tolist() == [0, 0, 0, 1, 1, 1]
    for frame, value in zip(split.frames, (10, 20, 30, 40, 50, 60), strict=True):
        with split.shard_path(frame["shard"]).open("rb") as file:
            file.seek(int(frame["offset"]))
            data = file.read(int(frame["size"]))
        assert data == jpeg(value) and zlib.crc32(data) == frame["crc32"]


def test_dataset_yaml_keeps_class_names_that_look_like_numbers(dataset):
    info = read_info(dataset)
    assert info.classes == CLASSES and info.name == "tiny" and len(info.digest) == 64


def test_a_shard_is_a_plain_ustar_file_without_time_and_user(dataset):
    with tarfile.open(dataset / "train-00000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["a.mjpeg", "a.json", "b.mjpeg", "b.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    data = (dataset / "train-00000.tar").read_bytes()
    assert data[257:265] == b"ustar\x0000"
    if shutil.which("tar"):
        names = subprocess.run(
            ["tar", "-tf", dataset / "train-00000.tar"], capture_output=True, text=True, check=True
        )
        assert names.stdout.split() == ["a.mjpeg", "a.json", "b.mjpeg", "b.json"]


def test_the_digest_depends_on_the_frames_and_not_on_the_folder(dataset, tmp_path):
    before = read_info(dataset)
    moved = shutil.copytree(dataset, tmp_path / "elsewhere")
    assert read_info(moved).digest == before.digest
    write_shard(moved / "train-00001.tar", [(record("c"), [jpeg(41), jpeg(50), jpeg(60)])])
    index = {name: i for i, name in enumerate(CLASSES)}
    rows = [read_rows(moved, "train", shard, index) for shard in (0, 1)]
    write_info(moved, before.model_copy(update={"tables": write_split(moved, "train", rows)}))
    assert read_info(moved).digest != before.digest


@pytest.mark.parametrize("bytes_left", [100, 600, 1600, -1024, -512, -1])
def test_a_truncated_shard_is_reported(dataset, bytes_left):
    path = dataset / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(ShardError, match=r"train-00000\.tar.*Delete (the file|it) and run `tin sh"):
        list(read_shard(path))


def test_a_damaged_header_is_reported(dataset):
    path = dataset / "train-00000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"b.mjpeg")] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"width":16', b'"width":"a'),
        (b'"offsets":[0,', b'"offsets":[9,'),
        (b'"key":"a"', b'"key":"z"'),
        (b'"labels":["left"]', b'"labels":"eleven1"'),
    ],
)
def test_an_impossible_record_is_reported(dataset, old, new):
    path = dataset / "train-00000.tar"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(ShardError, match=r"train-00000\.tar"):
        list(read_shard(path))


def test_a_newer_format_is_rejected_with_advice(dataset):
    path = dataset / "dataset.yaml"
    path.write_text(path.read_text().replace(f"format: {FORMAT}", "format: 99\nnews: 1"))
    with pytest.raises(ShardError, match=rf"format 99 is newer than {FORMAT}.*Update tin-video"):
        read_info(dataset)


def test_a_missing_or_damaged_dataset_is_reported(dataset, tmp_path):
    with pytest.raises(ShardError, match=r"dataset\.yaml is missing\. Make the dataset"):
        read_info(tmp_path)
    with pytest.raises(ConfigError, match="no split 'val'; its splits are train"):
        open_split(dataset, "val")
    (dataset / "dataset.yaml").write_text("format: [1\n")
    with pytest.raises(ShardError, match=r"dataset\.yaml.*run `tin data merge` again"):
        read_info(dataset)


def test_a_damaged_table_is_reported(dataset):
    path = dataset / "train.frames.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ShardError, match=r"train\.frames\.npy.*merge"):
        open_split(dataset, "train")
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ShardError, match=r"train\.frames\.npy"):  # a pickle is not loaded
        open_split(dataset, "train")


def test_a_split_without_labels_can_be_opened(dataset):
    write_shard(dataset / "test-00000.tar", [(record("x", ()), [jpeg(1)])])
    tables = write_split(dataset, "test", [read_rows(dataset, "test", 0, {})])
    info = read_info(dataset)
    write_info(dataset, info.model_copy(update={"splits": {"test": 1}, "tables": tables}))
    assert open_split(dataset, "test").labels_of(0).tolist() == []


def test_an_unfinished_shard_never_appears(tmp_path):
    path = tmp_path / "train-00000.tar"
    path.write_bytes(b"old")

    def videos():
        yield record("a"), [jpeg(10)]
        raise KeyError

    with pytest.raises(KeyError):
        write_shard(path, videos())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
