"""Videos become a dataset: the same bytes in one process, in parts and after kills."""

import csv
import faulthandler
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

from configs.load import ConfigError, dump
from preprocess.convert import ShardResult, merge, shard
from preprocess.shards import open_split, read_info
from preprocess.tars import ShardError, read_shard
from preprocess.verify import verify
from preprocess.workers import run_tasks


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """24 clips of 2 classes, one of them 0 bytes; 4 to a shard."""
    folder = tmp_path_factory.mktemp("source")
    for index in range(24):
        path = folder / "ab"[index % 2] / f"{index:02d}.mp4"
        write_clip(path, noise_frames(12 + index, 96))
    path.write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The dataset of `source`, made by one process."""
    folder = tmp_path_factory.mktemp("whole")
    config = shard_config(source, "shard.held_out=0.2", "run.threads=1")
    assert shard(config, folder) == ShardResult(23, 1)
    return folder


def test_the_dataset_holds_the_videos(whole):
    info = read_info(whole)
    assert info.classes == ("a", "b") and info.splits == {"train": 19, "val": 4}
    split = open_split(whole, "train")
    rows = list(csv.DictReader((whole / "train.csv").open()))
    assert [row["key"] for row in rows] == split.keys()
    for index, row in enumerate(rows):
        name = row["key"]  # a_02: clip 2 of 12 + 2 frames
        assert split.videos["num_frames"][index] == 12 + int(name[2:]) == int(row["frames"])
        assert split.labels_of(index).tolist() == ["ab".index(name[0])]
        assert row["source"] == f"{name[0]}/{name[2:]}.mp4" and row["fps"] == "10"
        assert float(row["seconds"]) == pytest.approx(int(row["frames"]) / 10)


def test_the_quarantine_names_key_source_and_reason(whole):
    rows = list(csv.reader((whole / "quarantine.csv").open()))
    assert rows == [
        ["key", "source", "reason"],
        ["b_23", "b/23.mp4", "the file has 0 bytes"],
    ]


def test_processes_do_not_change_a_byte(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "run.threads=3")
    shard(config, tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_parts_and_a_merge_do_not_change_a_byte(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=4")
    results = [shard(config, tmp_path / "d", part) for part in (2, 0, 3)]
    with pytest.raises(ShardError, match=r"2 of 6 shards are missing, train-00001\.tar the f"):
        merge(tmp_path / "d")
    results.append(shard(config, tmp_path / "d", 1))
    assert sum(result.num_videos for result in results) == 23
    assert sum(result.num_quarantined for result in results) == 1
    assert merge(tmp_path / "d") == ShardResult(23, 1)
    assert tree(tmp_path / "d") == tree(whole)


def test_parts_that_are_killed_and_started_again_do_not_change_a_byte(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=4", "run.threads=1")
    (tmp_path / "config.yaml").write_text(dump(config))
    code = (
        "import sys; from configs.load import load; from preprocess.convert import shard\n"
        "shard(load(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(tmp_path / "d")]
    chance = random.Random(0)
    for _ in range(3):  # kill all parts while a shard is being written
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


def test_what_killed_writers_leave_behind_is_removed(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2", "shard.parts=1")
    shard(config, tmp_path / "d", 0)
    for name in (".train-00000.tar.host-1.tmp", "quarantine/.train-00000.csv.host-1.tmp"):
        (tmp_path / "d" / name).write_bytes(b"half a fi")
    merge(tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_finished_shards_are_kept(source, whole, tmp_path):
    config = shard_config(source, "shard.held_out=0.2")
    shard(config, tmp_path / "d")
    kept, lost = tmp_path / "d" / "train-00000.tar", tmp_path / "d" / "train-00001.tar"
    os.utime(kept, (1, 1))
    lost.unlink()
    shard(config, tmp_path / "d")
    assert kept.stat().st_mtime == 1 and lost.stat().st_mtime > 1
    assert tree(tmp_path / "d") == tree(whole)


def test_the_tables_can_be_made_again_from_the_tars(source, whole, tmp_path):
    shard(shard_config(source, "shard.held_out=0.2"), tmp_path / "d")
    for path in (tmp_path / "d").iterdir():
        if path.suffix in (".npy", ".csv") or path.name == "dataset.yaml":
            path.unlink()
    merge(tmp_path / "d")
    assert tree(tmp_path / "d") == tree(whole)


def test_another_setting_in_a_begun_folder_is_refused(source, whole):
    before = tree(whole)
    with pytest.raises(ConfigError, match="begun with short_side 256, now it is 128; use another"):
        shard(shard_config(source, "shard.held_out=0.2", "shard.short_side=128"), whole)
    with pytest.raises(ConfigError, match=r"begun with splits \{'train': 20, 'val': 4\}, now"):
        shard(shard_config(source), whole)
    assert tree(whole) == before


def test_a_part_that_does_not_exist_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match=r"part 4 is none of shard\.parts=4, counted from 0"):
        shard(shard_config(source, "shard.parts=4"), tmp_path, 4)
    with pytest.raises(ShardError, match=r"plan\.yaml is absent: begin the dataset"):
        merge(tmp_path)


def test_bad_videos_are_named_and_the_rest_goes_on(tmp_path):
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
    assert reasons["text"].startswith("it is no video")
    assert "of 20 frames can be decoded" in reasons["avi"]
    assert reasons["frames"] == "the folder has no .jpg frames"
    assert open_split(tmp_path / "d", "train").keys() == ["good"]
    assert verify(tmp_path / "d") == []


@pytest.mark.parametrize(
    ("stored", "bad", "too_many"),
    [(0, 3, False), (0, 4, True), (96, 4, True), (396, 4, False), (395, 5, True)],
)
def test_more_than_3_and_1_percent_is_too_many(stored, bad, too_many):
    assert ShardResult(stored, bad).too_many_bad is too_many


def test_a_split_without_any_good_video_can_be_opened(tmp_path):
    write_clip(tmp_path / "s" / "train" / "a" / "x.mp4", gray_frames(3))
    (tmp_path / "s" / "val" / "a").mkdir(parents=True)
    (tmp_path / "s" / "val" / "a" / "y.mp4").touch()
    shard(shard_config(tmp_path / "s"), tmp_path / "d")
    assert open_split(tmp_path / "d", "val").num_videos == 0 and verify(tmp_path / "d") == []


def test_settings_reach_the_frames(tmp_path):
    write_clip(tmp_path / "s" / "a" / "x.mp4", gray_frames(12, 64, 48))
    config = shard_config(tmp_path / "s", "shard.short_side=24", "shard.frame_cap=4")
    shard(config, tmp_path / "d")
    (record, start), *_ = read_shard(tmp_path / "d" / "train-00000.tar")
    data = (tmp_path / "d" / "train-00000.tar").read_bytes()[start : start + record.size]
    ends = (*record.offsets[1:], record.size)
    jpegs = [data[first:end] for first, end in zip(record.offsets, ends, strict=True)]
    assert levels(jpegs) == [30, 60, 90, 120]  # frames 1, 4, 7 and 10 of 12
    assert (record.width, record.height, record.source_width, record.source_frames) == (
        32,
        24,
        64,
        12,
    )


def test_a_video_is_a_raw_mjpeg_stream(whole):
    import av

    with tarfile.open(whole / "train-00000.tar") as tar:
        member = tar.next()
        with av.open(tar.extractfile(member), format="mjpeg") as container:
            frames = sum(1 for _ in container.decode(video=0))
    assert frames == 12 + int(member.name[2:4])


def test_forwards_and_backwards_share_their_frames(tmp_path):
    write_clip(tmp_path / "s" / "a" / "x.mp4", gray_frames(4))
    shard(shard_config(tmp_path / "s", "shard.format=direction"), tmp_path / "d")
    split = open_split(tmp_path / "d", "train")
    crcs = dict(zip(split.keys(), split.frames["crc32"].reshape(2, 4).tolist(), strict=True))
    assert crcs["a_x"] == crcs["a_x-reversed"][::-1]
    assert read_info(tmp_path / "d").classes == ("backwards", "forwards")


def test_shard_size_fixes_the_videos_per_shard(source, tmp_path):
    # clips of about 23 frames of 96 x 96 pixels, guessed at 0.22 bytes a pixel: 48 KB each
    shard(shard_config(source, "shard.shard_mb=0.1"), tmp_path / "d")
    assert read_info(tmp_path / "d").videos_per_shard == 2


def test_a_full_disk_is_told_and_can_be_mended(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here")
    try:
        config = shard_config(source)
        with pytest.raises(ShardError, match=r"train-0000\d\.tar: No space left on device; finish"):
            shard(config, disk / "d")
        assert not list((disk / "d").glob(".*")), "an unfinished shard fills the disk"
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert shard(config, disk / "d") == ShardResult(23, 1)
        assert verify(disk / "d") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _crash(job, note):
    note(f"video {job}")
    if job == 2:
        faulthandler.disable()  # pytest's would print a trace
        os.kill(os.getpid(), signal.SIGSEGV)
    return job


def test_a_crash_of_the_decoder_is_told_with_its_place():
    told = []

    def crashed(error):
        told.append((error.job, error.note, error.reason))
        return 20

    assert sorted(run_tasks(_crash, range(5), 2, crashed)) == [0, 1, 3, 4, 20]
    assert told == [(2, "video 2", "the decoder crashed (SIGSEGV)")]


def test_a_killed_worker_stops_the_command():
    with pytest.raises(RuntimeError, match="ended with SIGKILL .* run the same command again"):
        list(run_tasks(lambda job, note: os.kill(os.getpid(), signal.SIGKILL), range(3), 2))


def test_what_a_job_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(lambda job, note: 1 // job, [1, 0], 1))


def test_workers_end_with_their_parent(tmp_path):
    code = (
        "import time, os, sys; from preprocess.workers import run_tasks\n"
        "def job(n, note): open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(60)\n"
        "list(run_tasks(job, range(3), 3))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_real_clips_make_a_dataset_split_by_group(shared, tmp_path):
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
