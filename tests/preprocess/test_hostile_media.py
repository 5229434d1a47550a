"""A hostile or broken file never stops `tin shard`: it becomes a row of quarantine.csv."""

import csv
import os
import struct
import time
from functools import partial
from pathlib import Path

import pytest
import simplejpeg
from synthetic_videos import gray_frames, shard_config, write_clip, write_labels

from preprocess import convert, workers
from preprocess.annotations.read import AnnotationError, read_annotations
from preprocess.convert import encode, shard
from preprocess.decode import BadVideoError, probe
from preprocess.videos import encode_video
from preprocess.workers import Note, run_tasks


def small_jpeg() -> bytes:
    return simplejpeg.encode_jpeg(gray_frames(1)[0], quality=90, colorsubsampling="420")


def jpeg_bomb(width: int, height: int) -> bytes:
    """Return a JPEG of a few hundred bytes whose header claims another size."""
    data = small_jpeg()
    start = data.index(b"\xff\xc0") + 5  # after the marker, the length and the precision
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def quarantined(folder: Path) -> dict[str, str]:
    """Return the reasons in quarantine.csv by the path of the video."""
    with (folder / "quarantine.csv").open(newline="") as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def test_every_hostile_file_is_a_row_of_the_quarantine(tmp_path):
    source = tmp_path / "source"
    good = [f"{index}.mp4" for index in range(8)]
    for name in good:
        write_clip(source / name, gray_frames(5))
    # A video whose second half is 10^8 s after the first: at 30 frames/s, 3 * 10^9 frames.
    gap = [0, 100, 200, 10**11, 10**11 + 100]
    write_clip(source / "gap.mkv", gray_frames(5), times_ms=gap)
    # A frame that claims 4 * 10^9 pixels, a FIFO, and a device, among the frames of a folder.
    for name in ("bomb", "fifo", "device"):
        (source / name).mkdir()
    (source / "bomb" / "1.jpg").write_bytes(jpeg_bomb(65000, 65000))
    os.mkfifo(source / "fifo" / "1.jpg")
    (source / "device" / "1.jpg").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe.mp4")
    (source / "zero.mp4").symlink_to("/dev/zero")
    long_name = f"{'x' * 300}.mp4"
    bad = ["gap.mkv", "bomb", "fifo", "device", "pipe.mp4", "zero.mp4", long_name]
    rows = [{"path": name, "labels": "a", "split": "train"} for name in [*good, *bad]]
    labels = write_labels(tmp_path / "labels.csv", rows)
    folder = tmp_path / "data"
    began = time.monotonic()
    result = shard(shard_config(source, f"shard.labels={labels}", "shard.fps=30"), folder)
    assert time.monotonic() - began < 60
    assert (result.num_videos, result.num_quarantined) == (len(good), len(bad))
    reasons = quarantined(folder)
    assert set(reasons) == set(bad)
    assert "more than 1000000 frames" in reasons["gap.mkv"]
    assert "too long" in reasons[long_name]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(jpeg_bomb(65000, 65000)), "65000x65000 pixels"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    ],
)
def test_a_hostile_frame_of_a_folder_gives_a_reason(tmp_path, make, reason):
    (tmp_path / "v").mkdir()
    make(tmp_path / "v" / "1.jpg")
    with pytest.raises(BadVideoError, match=reason):
        convert.encode_frames(tmp_path / "v", shard_config(tmp_path).shard, False)


def test_a_few_bad_frames_of_a_folder_are_skipped_and_named(tmp_path):
    for index in range(20):
        (tmp_path / f"{index}.jpg").write_bytes(small_jpeg())
    (tmp_path / "7.jpg").unlink()
    os.mkfifo(tmp_path / "7.jpg")
    found = convert.encode_frames(tmp_path, shard_config(tmp_path).shard, False)
    assert len(found.jpegs) == 19
    assert "7.jpg" in found.warning


def test_a_video_with_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", gray_frames(3, 64, 48))
    monkeypatch.setattr("preprocess.decode.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BadVideoError, match="64x48 pixels; the limit is 3071 pixels"):
        probe(path)


def test_a_video_whose_frames_are_too_large_is_rejected(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", gray_frames(20))
    monkeypatch.setattr("preprocess.videos.MAX_VIDEO_BYTES", 2000)
    with pytest.raises(BadVideoError, match=r"set shard\.frame_cap or shard\.fps"):
        encode_video(path, shard_config(tmp_path).shard)


def hang_at_2(task: int, note: Note) -> int:
    note(f"video {task}")
    if task == 2:
        time.sleep(600)
    note("")
    return task


def test_a_worker_that_takes_too_long_is_killed_and_its_task_is_replaced():
    reported = []

    def crashed(error: workers.CrashError[int]) -> int:
        reported.append((error.task, error.note, error.reason))
        return 20

    began = time.monotonic()
    assert sorted(run_tasks(hang_at_2, range(5), 2, crashed, 1.0)) == [0, 1, 3, 4, 20]
    assert time.monotonic() - began < 60
    assert reported == [(2, "video 2", "it took longer than shard.max_seconds allows")]


def wait_after_the_last_item(task: int, note: Note) -> int:
    note("video")
    note("")
    time.sleep(1.5)  # for example, a flush of the shard to a slow disk
    return task


def test_work_that_belongs_to_no_item_has_no_limit():
    assert list(run_tasks(wait_after_the_last_item, [1], 1, None, 0.5)) == [1]


def test_a_video_that_hangs_its_decoder_is_quarantined(tmp_path, monkeypatch):
    source = tmp_path / "source"
    for name in ("a.mp4", "slow.mp4", "b.mp4"):
        write_clip(source / "c" / name, gray_frames(5))

    def hanging(video, settings):
        if "slow" in video.path:
            time.sleep(600)
        return encode(video, settings)

    monkeypatch.setattr(convert, "encode", hanging)
    config = shard_config(source, "shard.max_seconds=2")
    result = shard(config, tmp_path / "data")
    assert (result.num_videos, result.num_quarantined) == (2, 1)
    assert quarantined(tmp_path / "data") == {
        "c/slow.mp4": "it took longer than shard.max_seconds allows"
    }


def take_memory(size: int, task: int, note: Note) -> str:
    try:
        bytearray(size)
    except MemoryError:
        return "MemoryError"
    return "allowed"


def test_a_worker_cannot_take_all_memory(monkeypatch):
    monkeypatch.setattr(workers, "MEMORY_BYTES", 1 << 30)
    assert list(run_tasks(partial(take_memory, 2 << 30), [1], 1)) == ["MemoryError"]
    assert list(run_tasks(partial(take_memory, 1 << 20), [1], 1)) == ["allowed"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"split": "quarantine"}, "split quarantine has the name of the list of bad videos"),
        ({"labels": "\udce9t\udce9"}, "class .* is not valid Unicode"),
    ],
)
def test_names_that_cannot_be_written_are_rejected_before_encoding(
    tmp_path, monkeypatch, row, message
):
    from preprocess.annotations import read
    from preprocess.annotations.labels import Video

    values = {"split": "train", "labels": "a", **row}
    video = Video("a.mp4", (values["labels"],), values["split"], "a")
    monkeypatch.setattr(read, "read_labels", lambda path, source: [video])
    with pytest.raises(AnnotationError, match=message):
        read_annotations(shard_config(tmp_path, "shard.labels=x.csv").shard)
