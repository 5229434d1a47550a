"""A dataset stores the group of each video; a dataset of an earlier version says what to do."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_videos import gray_frames, shard_config, write_clip, write_labels

from configs.load import ConfigError
from preprocess.convert import merge, shard
from preprocess.integrity import check_dataset
from preprocess.shard_plan import NAME
from preprocess.shards import open_split, read_info
from preprocess.tars import ShardError
from preprocess.verify import verify

GROUPS = {"0": "anna", "1": "anna", "2": "bert", "3": "", "4": "", "5": "anna"}
"""The group of each video; videos 4 and 5 are in split val, and 3 is stored a second time."""


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A dataset of seven videos with the groups of `GROUPS`; one is a reversed copy."""
    folder = tmp_path_factory.mktemp("groups")
    rows = []
    for name, group in GROUPS.items():
        write_clip(folder / "s" / f"{name}.mp4", gray_frames(5))
        split = "val" if name in "45" else "train"
        row = {"path": f"{name}.mp4", "labels": "a", "split": split, "group": group, "key": ""}
        rows.append(row)
    rows.append(rows[3] | {"key": "3-reversed"})
    labels = write_labels(folder / "labels.csv", rows)
    shard(shard_config(folder / "s", f"shard.labels={labels}"), folder / "d")
    return folder / "d"


@pytest.fixture
def dataset(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "d")


@pytest.fixture
def earlier(dataset):
    """The dataset as an earlier version made it: its plan and its tables lack the groups."""
    path = dataset / NAME
    path.write_text(path.read_text().replace("groups: true\n", ""))
    for split in ("train", "val"):
        (dataset / f"{split}.groups.npy").unlink()
    merge(dataset)
    return dataset


def number(group: str) -> int:
    """Return the number of a group by its definition: the first 8 bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "little")


def groups(folder: Path, split: str) -> dict[str, int]:
    """Return the stored group of each video, by its key."""
    tables = open_split(folder, split)
    assert tables.groups is not None
    return dict(zip(tables.keys(), tables.groups.tolist(), strict=True))


def test_each_video_has_the_number_of_its_group(intact):
    train = groups(intact, "train")
    assert train == {
        "0": number("anna"),
        "1": number("anna"),
        "2": number("bert"),
        "3": number("3.mp4"),  # no group: the video and its reversed copy belong together
        "3-reversed": number("3.mp4"),
    }
    assert groups(intact, "val") == {"4": number("4.mp4"), "5": number("anna")}


def test_the_csv_file_and_the_shards_name_the_groups(intact):
    rows = (intact / "val.csv").read_text().splitlines()
    assert rows[0].endswith(",warning,group")
    assert sorted(row.rpartition(",")[2] for row in rows[1:]) == ["", "anna"]
    assert verify(intact) == []
    assert read_info(intact).groups


def test_a_changed_group_is_found(dataset):
    path = dataset / "train.groups.npy"
    table = np.load(path)
    table[0] = number("carla")
    np.save(path, table)
    with pytest.raises(ShardError, match=r"train\.groups\.npy: its sha256 differs"):
        check_dataset(dataset, ["train"])
    assert any("train.groups.npy" in problem for problem in verify(dataset))


def test_a_dataset_of_an_earlier_version_stays_readable_but_has_no_groups(earlier):
    text = (earlier / "dataset.yaml").read_text()
    assert "groups" not in text
    check_dataset(earlier, ["train", "val"])
    assert verify(earlier) == []
    split = open_split(earlier, "train")
    assert split.groups is None
    with pytest.raises(ConfigError, match=r"Folds needs the groups .* again in another folder"):
        split.required_groups("Folds")


def test_a_dataset_that_an_earlier_version_started_can_be_finished(earlier):
    source = earlier.parent / "s"
    rows = []
    for name in "012345":
        write_clip(source / f"{name}.mp4", gray_frames(5))
        rows.append({"path": f"{name}.mp4", "labels": "a", "split": "train", "group": "g"})
    config = shard_config(source, f"shard.labels={write_labels(source / 'l.csv', rows)}")
    started = earlier.parent / "started"
    shard(config, started)
    path = started / NAME
    path.write_text(path.read_text().replace("groups: true\n", ""))
    (started / "train-00000.tar").unlink()
    shard(config, started)
    assert open_split(started, "train").groups is None
