"""`tin shard --dry-run`: sizes equal those of real shards, and nothing is written."""

import math

import numpy as np
import pytest
from synthetic_videos import noise_frames, write_clip
from typer.testing import CliRunner

from configs.load import load
from launch import cli
from preprocess.convert import shard
from preprocess.dry_run import dry_run

NUM_VIDEOS = 6


@pytest.fixture
def source(tmp_path):
    """Return a folder of two classes of three videos of 40 frames."""
    for number in range(NUM_VIDEOS):
        side = 48 + 8 * number
        write_clip(tmp_path / "s" / "ab"[number % 2] / f"{number}.mp4", noise_frames(40, side))
    return tmp_path / "s"


def config(source, *settings):
    return load(None, [f"shard.source={source}", "run.threads=1", *settings])


def stored_bytes(folder) -> int:
    """Return the bytes of the shards without their ends, and of the rows of tables of frames."""
    shards = [path.stat().st_size - 1024 for path in folder.glob("*.tar")]
    frames = [np.load(path).nbytes for path in folder.glob("*.frames.npy")]
    return sum(shards) + sum(frames)


@pytest.mark.parametrize("quality, cap", [(90, 0), (80, 32)])
def test_the_sizes_of_a_complete_sample_are_those_of_the_dataset(source, tmp_path, quality, cap):
    found = dry_run(config(source))
    settings = (f"shard.quality={quality}", f"shard.frame_cap={cap}")
    shard(config(source, *settings), tmp_path / "d")
    assert found.sizes[quality, cap] == stored_bytes(tmp_path / "d")
    chosen = dry_run(config(source, *settings))
    assert chosen.num_bytes.value == found.sizes[quality, cap]
    assert chosen.num_bytes.half_width == 0  # every video is known
    assert chosen.frames.value == NUM_VIDEOS * (cap or 40)
    files = [path for path in (tmp_path / "d").iterdir() if path.is_file()]
    assert chosen.num_files == len(files)


def test_a_part_of_the_videos_gives_an_interval(source, monkeypatch):
    monkeypatch.setattr("preprocess.dry_run.SAMPLE_SIZE", 3)
    found = dry_run(config(source))
    assert found.num_sampled == 3
    # All videos are equally long, but their frames have different sizes.
    assert (found.frames.value, found.frames.half_width) == (NUM_VIDEOS * 40, 0)
    assert 0 < found.num_bytes.half_width < found.num_bytes.value


def test_the_command_prints_a_table_and_writes_nothing(source, tmp_path):
    (source / "a" / "broken.mp4").write_bytes(b"not a video")
    result = CliRunner().invoke(
        cli.app, ["shard", str(source), str(tmp_path / "d"), "--dry-run", "shard.quality=70"]
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("videos: 7 (")
    assert lines[1].startswith("warning: 1 of the sampled videos")
    assert [line.split()[0] for line in lines[-4:]] == ["90", "85", "80", "70"]
    assert "*" in lines[-1].split()[1]
    assert not (tmp_path / "d").exists()


def test_caps_are_not_offered_for_dense_sampling(source):
    lines = list(dry_run(config(source, "clip.sampling=dense")).lines())
    rows = [line.split() for line in lines if line.split()[0] in ("90", "85", "80")]
    assert [row[2:] for row in rows] == [["-", "-"]] * 3
    assert "rejects shard.frame_cap" in lines[-1]


def test_without_a_usable_video_nothing_is_estimated(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.mp4").write_bytes(b"not a video")
    found = dry_run(config(tmp_path))
    assert found.num_sampled == 0 and math.isnan(found.num_bytes.half_width)
    assert "nothing can be estimated" in list(found.lines())[-1]
