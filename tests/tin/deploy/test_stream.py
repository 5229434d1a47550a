"""Streams of files and pipes through the command line, and what they reject."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from synthetic_videos import write_clip

from configs.load import ConfigError, load
from preprocess.decode import BadVideoError
from tin.deploy import rgb_frames
from tin.deploy.rgb_frames import center_crop, source_frames, video_frames
from tin.deploy.scorer import Scorer
from tin.deploy.stream import logits_over_time, predict_stream
from tin.evaluation.predict import frames_input

CAUSAL = ("model.causal=true", "clip.sampling=dense", "clip.stride=2")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    frames = [noise + np.uint8(8 * number) for number in range(21)]
    return write_clip(tmp_path_factory.mktemp("video") / "video.mp4", frames)


@pytest.mark.parametrize("temporal", ["shift", "interlace"])
def test_a_file_is_read_at_the_stride_and_equals_the_whole_clip(make_run, video, temporal):
    run_dir = make_run(*CAUSAL, f"model.temporal={temporal}")
    found = list(predict_stream(run_dir, str(video), ["predict.top=8"], None))
    assert [prediction.number for prediction in found] == list(range(0, 21, 2))
    assert found[3].seconds == pytest.approx(0.6)
    scorer = Scorer(run_dir, [], torch.device("cpu"))
    read = video_frames(video, scorer.config)
    frames = [center_crop(frame.pixels, scorer.config) for frame in read]
    clip = frames_input(torch.from_numpy(np.stack(frames[::2]))[None], 11)
    want = logits_over_time(scorer.network, clip)[0].softmax(1)
    for prediction, scores in zip(found, want, strict=True):
        by_name = dict(prediction.classes)
        assert [by_name[name] for name in scorer.classes] == pytest.approx(
            scores.tolist(), abs=1e-5
        )


def test_a_pipe_of_raw_frames_prints_a_line_for_each_frame(make_run):
    run_dir = make_run(*CAUSAL)
    frames = np.random.default_rng(0).integers(0, 255, (5, 40, 60, 3), np.uint8)
    command = [sys.executable, "-m", "launch", "predict", str(run_dir), "--stream", "-", "--size",
               "60x40", "--json"]  # fmt: skip
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 2, 4]
    assert lines[0]["seconds"] is None
    assert len(lines[0]["classes"]) == 5


def test_a_pipe_that_ends_within_a_frame_is_an_error(monkeypatch):
    class Input:
        buffer = io.BytesIO(bytes(2 * 3 * 4 + 5))

    monkeypatch.setattr(rgb_frames.sys, "stdin", Input)
    frames = source_frames("-", load(None), (4, 2))
    assert next(frames).pixels.shape == (2, 4, 3)
    with pytest.raises(BadVideoError, match="has 5 bytes, expected 24 for 4x2"):
        next(frames)


def test_a_camera_is_opened_by_its_device(monkeypatch):
    # FFmpeg's test picture stands for the camera, which this machine does not have.
    monkeypatch.setattr(rgb_frames, "CAMERA_FORMAT", "lavfi")
    frames = source_frames("camera:testsrc=size=64x48:rate=10", load(None), None)
    first, second = next(frames), next(frames)
    assert first.pixels.shape == (48, 64, 3)
    assert (first.number, second.number) == (0, 1)
    assert second.seconds == pytest.approx(0.1)


def test_what_cannot_be_a_stream_is_rejected(run_dir, make_run, video):
    with pytest.raises(ConfigError, match=r"trained with model\.causal=true"):
        next(predict_stream(run_dir, str(video), [], None))
    uniform = make_run("model.causal=true")
    with pytest.raises(ConfigError, match=r"needs clip\.sampling dense"):
        next(predict_stream(uniform, str(video), [], None))
    causal = make_run(*CAUSAL)
    with pytest.raises(ConfigError, match="--size WIDTHxHEIGHT"):
        next(predict_stream(causal, "-", [], None))
    with pytest.raises(BadVideoError, match="camera /dev/none"):
        next(predict_stream(causal, "camera:/dev/none", [], None))
