"""Timelines: windows at a stride, each frame decoded once, segments and pictures."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_videos import write_clip

import tin.deploy.rgb_frames as rgb_frames
from configs.load import ConfigError, load
from pipeline.batches import BadDataError
from preprocess.motions import make_motions
from tin.deploy.rgb_frames import center_crop, video_frames
from tin.deploy.scorer import Scorer
from tin.deploy.timeline import Timeline, picture, segments_of, timeline_of, write_timelines
from tin.evaluation.predict import frames_input

T = 4


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """43 frames at 10 per second whose brightness changes over time."""
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    frames = [noise + np.uint8(4 * number) for number in range(43)]
    return write_clip(tmp_path_factory.mktemp("video") / "long.mp4", frames)


def test_a_window_holds_the_frames_at_the_stride(run_dir, video, monkeypatch):
    decoded = []
    real = rgb_frames.decode_frames

    def counted(*arguments):
        for item in real(*arguments):
            decoded.append(1)
            yield item

    monkeypatch.setattr(rgb_frames, "decode_frames", counted)
    scorer = Scorer(run_dir, ["predict.stride=3", "predict.step=2"], torch.device("cpu"))
    timeline = timeline_of(video, scorer)
    assert len(decoded) == 43  # each frame once
    # Frames 0, 3, ... 42 are 15; windows of 4 of them start at 0, 2, 4, 6, 8 and 10.
    np.testing.assert_allclose(timeline.starts, [0, 0.6, 1.2, 1.8, 2.4, 3.0], atol=1e-6)
    np.testing.assert_allclose(timeline.ends, timeline.starts + 0.9 + 0.1, atol=1e-6)
    read = video_frames(video, scorer.config)
    frames = [center_crop(frame.pixels, scorer.config) for frame in read]
    for window, scores in enumerate(timeline.scores):
        chosen = np.stack([frames[6 * window + 3 * t] for t in range(T)])
        with torch.no_grad():
            want = scorer.network(frames_input(torch.from_numpy(chosen)[None], T)).softmax(1)[0]
        np.testing.assert_allclose(scores, want, atol=1e-5)
    assert np.ptp(timeline.scores, axis=0).max() > 0.01


def test_a_short_video_gives_one_window(run_dir, tmp_path):
    short = write_clip(tmp_path / "short.mp4", [np.full((48, 64, 3), 90, np.uint8)] * 2)
    timeline = timeline_of(short, Scorer(run_dir, [], torch.device("cpu")))
    assert timeline.scores.shape == (1, 8)
    assert (timeline.starts[0], timeline.ends[0]) == pytest.approx((0.0, 0.1))


def test_segments_join_windows_above_the_threshold_and_drop_short_ones():
    starts = np.arange(6.0)
    scores = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.1, 0.5], [0.1, 0.9]])
    timeline = Timeline(starts, starts + 2, scores)
    config = load(None, ["predict.threshold=0.5", "predict.min_seconds=2.5"])
    found = segments_of(timeline, ["a", "b"], config)
    # Windows of 2 s: a in 0-1 lasts from 0 to 3; a in 3 and b in 2 only last 2 s; b in 4-5 from
    # 4 to 7, because a score of exactly 0.5 counts.
    assert [(s.start, s.end, s.name) for s in found] == [(0, 3, "a"), (4, 7, "b")]
    assert [s.score for s in found] == pytest.approx([0.8, 0.7])


def test_the_picture_is_bright_where_a_class_scores_high():
    starts = np.arange(10.0)
    scores = np.zeros((10, 2), np.float32)
    scores[5:, 0] = 1
    scores[0, 1] = 0.01
    shown = np.asarray(
        Image.open(io.BytesIO(picture(Timeline(starts, starts + 1, scores), "ab", "v")))
    )
    assert shown.shape[1] == 1000
    yellow = (shown[..., 0] > 240) & (shown[..., 1] > 220) & (shown[..., 2] < 60)
    columns = np.flatnonzero(yellow[: shown.shape[0] // 2, :850].any(0))
    assert 350 < columns.min() < 550  # the second half of the axis, left of the color bar


def test_the_files_of_several_videos(run_dir, video, tmp_path):
    make_motions(tmp_path / "more", train=1, val=1, size=64, seed=1)
    (tmp_path / "text.mp4").write_text("not a video")
    sources = [video, tmp_path / "text.mp4", tmp_path / "more"]
    out = tmp_path / "out"
    settings = ["predict.stride=1", "predict.threshold=0.0", "predict.min_seconds=0"]
    assert write_timelines(run_dir, sources, out, settings) == 1
    with (out / "00000-long.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:2] == ["start_s", "end_s"]
    assert len(rows) == 20  # (43 - 4) // 2 + 1
    assert sum(float(rows[0][name]) for name in list(rows[0])[2:]) == pytest.approx(1, abs=1e-5)
    assert len(list(out.glob("*.png"))) == 3
    with (out / "segments.csv").open() as file:
        segments = list(csv.DictReader(file))
    assert len(segments) == 3 * 8  # a threshold of 0 makes one segment of each class
    assert segments[0]["end_s"] == "4.200"  # frame 38 + 3 is shown up to frame 42
    with (out / "bad.csv").open() as file:
        (bad,) = csv.DictReader(file)
    assert bad["reason"].startswith("the file is not a video")


def test_timelines_of_no_usable_video_are_an_error(run_dir, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    out = tmp_path / "out"
    with pytest.raises(BadDataError, match=r"out/bad\.csv: none of 1 videos can be used"):
        write_timelines(run_dir, [tmp_path / "text.mp4"], out, ["predict.stride=1"])
    assert (out / "bad.csv").exists()


def test_stacked_frames_are_rejected(make_run, video, tmp_path):
    with pytest.raises(ConfigError, match="frames_per_segment=1"):
        write_timelines(make_run("clip.frames_per_segment=2"), [video], tmp_path / "out", [])
