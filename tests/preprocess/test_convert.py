"""A dataset has the same bytes whether one process, parts or restarts make it."""

import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from synthetic_videos import (
    cut,
    gray_frames,
    levels,
    noise_frames,
    shard_config,
    write_clip,
    write_labels,
)

from configs.files import WriteError
from configs.load import ConfigError, dump
from preprocess.convert import ShardResult, merge, shard
from preprocess.shards import open_split, read_info
from preprocess.tars import ShardError, read_shard
from preprocess.verify import verify


def tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of 24 clips of 2 classes; the last clip has 0 bytes. A shard takes 4 clips."""
    folder = tmp_path_factory.mktemp("source")
    for index in range(24):
        path = folder / "ab"[index % 2] / f"{index:02d}.mp4"
        write_clip(path, noise_frames(12 + index, 96))
    path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The dataset of `source`, made without parts by one worker."""
    folder = tmp_path_factory.mktemp("whole")
    config = shard_config(source, "shard.held_out=0.2", "run.threads=1")
    assert shard(config, folder) == ShardResult(23, 1)
    return folder


def test_the_tables_describe_the_videos(whole):
    info = read_info(whole)
    assert info.classes == ("a", "b") and info.splits == {"train": 19, "val": 4}
    split = open_split(whole, "train")
    rows = list(csv.DictReader((whole / "train.csv").open()))
    assert [row["key"] for row in rows] == split.keys()
    for index, row in enumerate(rows):
        name = row["key"]  # for example a_02: clip 2, which has 12 + 2 frames
        assert split.videos["num_frames"][index] == 12 + int(name[2:]) == int(row["frames"])
        assert split.labels_of(index).tolist() == ["ab".index(name[0])]
        assert row["source"] == f"{name[0]}/{name[2:]}.mp4" and row["fps"] == "10"
        assert float(row["seconds"]) == pytest.approx(int(row["frames"]) / 10)


def test_quarantine_csv_lists_key_source_and_reason(whole):
    rows = list(csv.reader((whole / "quarantine.csv").open()))
    assert rows == [
        ["key", "source", "reason"],
        ["b_23", "b/23.mp4", "the file has 0 bytes"],
    ]


def test_the_bytes_do_not_depend_on_the_number_of_workers(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "run.threads=3")
    shard(config, tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_parts_and_a_merge_give_the_same_bytes(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=4")
    results = [shard(config, tmp_path / "d", part) for part in (2, 0, 3)]
    with pytest.raises(ShardError, match=r"2 of 6 shards are missing, train-00001\.tar first"):
        merge(tmp_path / "d")
    results.append(shard(config, tmp_path / "d", 1))
    assert sum(result.num_videos for result in results) == 23
    assert sum(result.num_quarantined for result in results) == 1
    assert merge(tmp_path / "d") == ShardResult(23, 1)
    assert tree(tmp_path / "d") == tree(whole)


def test_parts_that_are_killed_and_restarted_give_the_same_bytes(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=4", "run.threads=1")
    (tmp_path / "config.yaml").write_text(dump(config))
    code = (
        "import sys; from configs.load import load; from preprocess.convert import shard\n"
        "shard(load(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(tmp_path / "d")]
    chance = random.Random(0)
    # Three times, kill all parts while a shard is being written.
    for _ in range(3):
        parts = [subprocess.Popen([*args, str(part)]) for part in range(4)]
        while not list(tmp_path.glob("d/.*.tar.*.tmp")) and any(p.poll() is None for p in parts):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        for part in parts:
            part.kill()
        assert {part.wait() for part in parts} <= {0, -signal.SIGKILL}
    parts = [subprocess.Popen([*args, str(part)]) for part in range(4)]
    assert [part.wait() for part in parts] == [0, 0, 0, 0]
    merge(tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


LEFTOVERS = (
    ".train-00000.tar.0123456789abcdef.tmp",
    ".train.frames.npy.0123456789abcdef.tmp",
    "quarantine/.train-00000.csv.0123456789abcdef.tmp",
    ".train-00001.tar.host-1.tmp",  # names of earlier versions: host and process
    "quarantine/.train-00001.csv.host-1.tmp",
)


def test_a_merge_removes_leftover_files_of_killed_writers(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=1")
    shard(config, tmp_path / "d", 0)
    for name in LEFTOVERS:
        (tmp_path / "d" / name).write_bytes(b"half a fi")
    merge(tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_a_part_removes_leftover_files_of_its_own_shards_only(source, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=6")
    (tmp_path / "d").mkdir()
    for name in LEFTOVERS[0], LEFTOVERS[3]:
        (tmp_path / "d" / name).write_bytes(b"half a fi")
    shard(config, tmp_path / "d", 1)
    left = {path.name for path in (tmp_path / "d").glob(".*")}
    assert left == {LEFTOVERS[0]}, "another part may be writing train-00000.tar"


def test_finished_shards_are_kept(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2")
    shard(config, tmp_path / "d")
    kept = tmp_path / "d" / "train-00000.tar"
    lost = tmp_path / "d" / "train-00001.tar"
    os.utime(kept, (1, 1))
    lost.unlink()
    shard(config, tmp_path / "d")
    assert kept.stat().st_mtime == 1 and lost.stat().st_mtime > 1
    assert tree(tmp_path / "d") == tree(whole)


def test_the_tables_can_be_rebuilt_from_the_shards(source, whole, tmp_path):
    shard(shard_config(source, "shard.held_out=0.2"), tmp_path / "d")
    for path in (tmp_path / "d").iterdir():
        if path.suffix in (".npy", ".csv") or path.name == "dataset.yaml":
            path.unlink()
    merge(tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_a_dataset_cannot_be_resumed_with_another_setting(source, whole):
    before = tree(whole)
    with pytest.raises(
        ConfigError, match="started with short_side 256, but now it is 128. Use anot"
    ):
        shard(shard_config(source, "shard.held_out=0.2", "shard.short_side=128"), whole)
    with pytest.raises(
        ConfigError, match=r"started with splits \{'train': 20, 'val': 4\}, but now"
    ):
        shard(shard_config(source), whole)
    assert tree(whole) == before


def test_a_part_that_does_not_exist_is_rejected(source, tmp_path):
    with pytest.raises(ConfigError, match=r"part 4 does not exist: shard\.parts is 4, .* 0 to 3"):
        shard(shard_config(source, "shard.parts=4"), tmp_path, 4)
    with pytest.raises(ShardError, match=r"plan\.yaml is missing\. Start the dataset"):
        merge(tmp_path)


def test_bad_videos_go_to_quarantine_and_the_others_are_stored(tmp_path):
    source = tmp_path / "source"
    write_clip(source / "good.mp4", gray_frames(5))
    cut(write_clip(source / "short.avi", noise_frames(20)), 0.6)
    cut(write_clip(source / "short.mkv", noise_frames(20)), 0.6)
    (source / "text.mp4").write_text("no video\n" * 200)
    (source / "frames").mkdir()
    files = ["good.mp4", "short.avi", "short.mkv", "text.mp4", "frames", "missing.mp4"]
    keys = ["good", "avi", "mkv", "text", "frames", "missing"]
    rows = [
        {"path": path, "labels": "a", "split": "train", "key": key}
        for path, key in zip(files, keys, strict=True)
    ]
    labels = write_labels(tmp_path / "labels.csv", rows)
    result = shard(shard_config(source, f"shard.labels={labels}"), tmp_path / "d")
    assert result == ShardResult(1, 5) and result.too_many_bad
    reasons = {
        row["key"]: row["reason"]
        for row in csv.DictReader((tmp_path / "d" / "quarantine.csv").open())
    }
    assert reasons["missing"] == "the file is missing"
    assert reasons["text"].startswith("the file is not a video")
    assert "of 20 frames can be decoded" in reasons["avi"]
    assert reasons["frames"] == "the folder has no .jpg frames"
    assert open_split(tmp_path / "d", "train").keys() == ["good"]
    assert verify(tmp_path / "d") == []


@pytest.mark.parametrize(
    ("stored", "bad", "too_many"),
    [(0, 3, False), (0, 4, True), (96, 4, True), (396, 4, False), (395, 5, True)],
)
def test_too_many_bad_videos_are_more_than_3_and_more_than_1_percent(stored, bad, too_many):
    assert ShardResult(stored, bad).too_many_bad is too_many


def test_a_split_without_any_good_video_can_be_opened(tmp_path):
    write_clip(tmp_path / "s" / "train" / "a" / "x.mp4", gray_frames(3))
    (tmp_path / "s" / "val" / "a").mkdir(parents=True)
    (tmp_path / "s" / "val" / "a" / "y.mp4").touch()
    shard(shard_config(tmp_path / "s"), tmp_path / "d")
    assert open_split(tmp_path / "d", "val").num_videos == 0 and verify(tmp_path / "d") == []


def test_short_side_and_frame_cap_are_applied(tmp_path):
    write_clip(tmp_path / "s" / "a" / "x.mp4", gray_frames(12, 64, 48))
    config = shard_config(tmp_path / "s", "shard.short_side=24", "shard.frame_cap=4")
    shard(config, tmp_path / "d")
    (record, start), *_ = read_shard(tmp_path / "d" / "train-00000.tar")
    data = (tmp_path / "d" / "train-00000.tar").read_bytes()[start : start + record.size]
    ends = (*record.offsets[1:], record.size)
    jpegs = [data[first:end] for first, end in zip(record.offsets, ends, strict=True)]
    assert levels(jpegs) == [30, 60, 90, 120]  # frames 1, 4, 7 and 10 of 12
    assert (record.width, record.height) == (32, 24)
    assert (record.source_width, record.source_frames) == (64, 12)


def test_a_video_is_a_raw_mjpeg_stream(whole):
    import av

    with tarfile.open(whole / "train-00000.tar") as tar:
        member = tar.next()
        with av.open(tar.extractfile(member), format="mjpeg") as container:
            frames = sum(1 for _ in container.decode(video=0))
    assert frames == 12 + int(member.name[2:4])


def test_a_reversed_video_has_the_same_frames_in_reverse_order(tmp_path):
    write_clip(tmp_path / "s" / "a" / "x.mp4", gray_frames(4))
    shard(shard_config(tmp_path / "s", "shard.format=direction"), tmp_path / "d")
    split = open_split(tmp_path / "d", "train")
    crcs = dict(zip(split.keys(), split.frames["crc32"].reshape(2, 4).tolist(), strict=True))
    assert crcs["a_x"] == crcs["a_x-reversed"][::-1]
    assert read_info(tmp_path / "d").classes == ("backwards", "forwards")


def test_shard_mb_determines_the_videos_per_shard(source, tmp_path):
    # Clips of about 23 frames of 96 x 96 pixels, at 0.22 bytes per pixel: 48 KB each.
    shard(shard_config(source, "shard.shard_mb=0.1"), tmp_path / "d")
    assert read_info(tmp_path / "d").videos_per_shard == 2


def test_a_full_disk_is_reported_and_the_dataset_can_be_resumed(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here")
    try:
        config = shard_config(source)
        reason = r"train-0000\d\.tar: No space left on device\. Finished shards are kept\. Free"
        with pytest.raises(WriteError, match=reason):
            shard(config, disk / "d")
        assert not list((disk / "d").glob(".*")), "an unfinished shard still fills the disk"
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert shard(config, disk / "d") == ShardResult(23, 1)
        assert verify(disk / "d") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_real_clips_are_split_by_group(shared, tmp_path):
    with (shared / "videos" / "labels.csv").open() as file:
        rows = [
            {"path": row["file"], "labels": row["label"], "split": "", "group": row["group"]}
            for row in csv.DictReader(file)
            if row["label"] in ("Diving", "BenchPress", "fight")
        ]
    labels = write_labels(tmp_path / "labels.csv", rows)
    config = shard_config(
        shared / "videos", f"shard.labels={labels}", "shard.held_out=0.3", "shard.short_side=64"
    )
    assert shard(config, tmp_path / "d") == ShardResult(len(rows), 0)
    keys = {split: open_split(tmp_path / "d", split).keys() for split in ("train", "val")}
    group = {split: {key[-7:-4] for key in keys[split] if "Diving" in key} for split in keys}
    assert group["train"] and group["val"] and not group["train"] & group["val"]
    assert not [key for key in keys["val"] if "BenchPress" in key]  # all of group 1
    assert verify(tmp_path / "d") == []
    frame = open_split(tmp_path / "d", "val").frames[0]
    with open_split(tmp_path / "d", "val").shard_path(0).open("rb") as file:
        file.seek(int(frame["offset"]))
        pixels = simplejpeg.decode_jpeg(file.read(int(frame["size"])))
    assert min(pixels.shape[:2]) == 64 and np.std(pixels) > 10
