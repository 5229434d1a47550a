"""The quarantine lists are read back as written, and tell missing files from failures."""

import os

import pytest

from preprocess.quarantine import (
    MISSING,
    QuarantinedVideo,
    read_shard_list,
    write_dataset_list,
    write_shard_list,
)
from preprocess.tars import ShardError

SHARD = "train-00003.tar"
FAILED = QuarantinedVideo("a", "x/a.mp4", 'it has "quotes", commas\nand two lines')


def test_the_list_of_a_shard_is_read_back(tmp_path):
    assert read_shard_list(tmp_path, SHARD) == []
    write_shard_list(tmp_path, SHARD, [FAILED])
    assert read_shard_list(tmp_path, SHARD) == [FAILED]
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == ["train-00003.csv"]


def test_an_empty_list_removes_the_list_of_an_earlier_start(tmp_path):
    write_shard_list(tmp_path, SHARD, [FAILED])
    write_shard_list(tmp_path, SHARD, [])
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_the_list_of_a_dataset_has_a_header_even_if_it_is_empty(tmp_path):
    write_dataset_list(tmp_path, [])
    assert (tmp_path / "quarantine.csv").read_bytes() == b"key,source,reason\n"


def test_a_source_that_is_not_utf8_is_escaped(tmp_path):
    source = b"\xe9.mp4".decode(errors="surrogateescape")
    write_shard_list(tmp_path, SHARD, [QuarantinedVideo("a", source, "x")])
    assert read_shard_list(tmp_path, SHARD)[0].source == r"\udce9.mp4"


def test_missing_files_are_told_from_failures():
    former = "it is not there" + ", as videos of Kinetics may be"  # in lists of earlier versions
    assert QuarantinedVideo("a", "a.mp4", MISSING).is_missing
    assert QuarantinedVideo("a", "a.mp4", former).is_missing
    assert not QuarantinedVideo("a", "a.mp4", "the file is missing").is_missing


@pytest.mark.parametrize("content", [b"key,source,reason\na,b\n", b"\xff\xfe", b'"a\n"b"\n,,,,'])
def test_a_damaged_list_is_named(tmp_path, content):
    path = tmp_path / "quarantine" / "train-00003.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"train-00003\.csv"):
        read_shard_list(tmp_path, SHARD)


def test_a_fifo_in_place_of_a_list_is_named_and_never_blocks(tmp_path):
    (tmp_path / "quarantine").mkdir()
    os.mkfifo(tmp_path / "quarantine" / "train-00003.csv")
    with pytest.raises(ShardError, match=r"train-00003\.csv: .*is not a regular file"):
        read_shard_list(tmp_path, SHARD)
