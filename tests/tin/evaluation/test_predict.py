"""Predictions of video files against tests of the same videos as shards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from configs.load import dump, load
from launch.commands.results import add_to
from preprocess.convert import shard
from preprocess.motions import make_motions
from preprocess.shards import read_info
from tin.evaluation.evaluate import test as measure
from tin.evaluation.predict import predict, save_strip
from tin.evaluation.scores import load as load_scores
from tin.models.network import build_model
from tin.ranks.distributed import start
from tin.runs import checkpoint
from tin.runs.folder import Run

T, CROP = 4, 48


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("motions") / "videos"
    make_motions(folder, train=8, val=8, size=96, seed=0)
    return folder


@pytest.fixture(scope="module")
def run(videos) -> Path:
    """A run of an untrained model whose scores differ from video to video."""
    dataset = videos.parent / "dataset"
    source = [f"shard.source={videos}", f"shard.labels={videos / 'labels.csv'}"]
    shard(load(None, [*source, "run.threads=1"]), dataset)
    config = load(None, [
        f"data.dataset={dataset}", "model.arch=resnet18", f"clip.num_segments={T}",
        f"clip.crop={CROP}", "clip.resize=64", "run.threads=1", "run.device=cpu", "test.clips=2",
        "test.crops=10",
    ])  # fmt: skip
    classes = read_info(dataset).classes
    torch.manual_seed(0)
    model = build_model(config, len(classes))
    torch.nn.init.normal_(model.fc.weight, std=0.2)
    folder = videos.parent / "run"
    state = {
        "config": config.model_dump(mode="json"), "classes": list(classes), "epoch": 0,
        "global_step": 0, "model": model.state_dict(), "ema": None,
    }  # fmt: skip
    checkpoint.save(Run(folder), state, "best.pt")
    (folder / "config.yaml").write_text(dump(config))
    return folder


def test_predictions_are_those_of_the_test_of_the_same_videos(run, videos):
    with start("cpu") as world:
        scores = load_scores(measure(run, [], world))
    files = [videos / f"{key.replace('_', '/')}.mp4" for key in scores.keys]
    found = list(predict(run, files))
    spread = scores.mean.max(axis=0) - scores.mean.min(axis=0)
    assert spread.max() > 0.1  # the videos do not look alike to the model
    for prediction, mean in zip(found, scores.mean, strict=True):
        best = np.argsort(-mean)[:5]
        told = dict(prediction.classes)
        assert [value for _, value in prediction.classes] == sorted(told.values(), reverse=True)
        assert prediction.classes[0][0] == scores.classes[best[0]]
        for name, score in told.items():  # Pillow's pixels are not quite DALI's
            assert score == pytest.approx(mean[scores.classes.index(name)], abs=2e-3)


def test_a_checkpoint_file_says_the_same_as_its_run(run, videos):
    video = sorted(videos.rglob("*.mp4"))[0]
    (one,), (two,) = predict(run, [video]), predict(run / "checkpoints" / "best.pt", [video])
    assert one.classes == two.classes


def test_a_video_that_is_none_is_named_and_the_others_go_on(run, videos, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    bad, good = predict(run, [text, sorted(videos.rglob("*.mp4"))[0]])
    assert bad.classes == []
    assert bad.record()["problem"].startswith("the file is not a video")
    assert set(good.record()) == {"video", "classes"}
    assert len(good.record()["classes"]) == 5


def test_the_strip_shows_the_frames_in_order_a_row_a_video(run, videos, tmp_path):
    predictions = list(predict(run, sorted(videos.rglob("*.mp4"))[:2]))
    save_strip(predictions, tmp_path / "strip.png")
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (2 * CROP + 4, T * CROP + (T - 1) * 4, 3)
    step = CROP + 4
    np.testing.assert_array_equal(
        strip[step:, 2 * step : 2 * step + CROP], predictions[1].frames[2]
    )


def test_a_folder_of_frames_is_a_video(run, tmp_path):
    for frame in range(6):
        image = np.full((64, 80, 3), 40 * frame, np.uint8)
        Image.fromarray(image).save(tmp_path / f"{frame}.jpg", quality=95)
    (prediction,) = predict(run, [tmp_path])
    middles = prediction.frames.mean(axis=(1, 2, 3))
    # 2 clips of 4 frames out of 6: the first looks at a quarter of each part of 1.5 frames
    np.testing.assert_allclose(middles, [0, 40, 120, 160], atol=2)


def test_a_strip_of_nothing_is_refused(run, tmp_path):
    predictions = list(predict(run, [tmp_path / "nowhere.mp4"]))
    assert predictions[0].problem == "the file is missing"
    with pytest.raises(ValueError, match="no video could be used"):
        save_strip(predictions, tmp_path / "strip.png")


def test_tin_predict_prints_bars_or_json(run, videos, tmp_path):
    app = typer.Typer()
    add_to(app)
    words = ["predict", str(run), str(sorted(videos.rglob("*.mp4"))[0]), str(tmp_path / "no.mp4")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 1  # one of the two is no video
    lines = shown.stdout.splitlines()
    assert len(lines) == 7
    assert "█" in lines[1]
    assert lines[-1].endswith("no.mp4: the file is missing")
    strip = tmp_path / "strip.png"
    told = CliRunner().invoke(app, [*words[:3], "--json", "--strip", str(strip)])
    assert told.exit_code == 0
    assert len(json.loads(told.stdout)[0]["classes"]) == 5
    assert strip.exists()
