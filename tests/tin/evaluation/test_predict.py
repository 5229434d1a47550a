"""Predictions of video files agree with a test of the same videos in shards."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner
from untrained_run import write_run

from configs.load import load
from launch.commands.deploy import add_to
from preprocess.convert import shard
from preprocess.motions import make_motions
from tin.evaluation.evaluate import test as measure
from tin.evaluation.predict import Prediction, predict, save_strip
from tin.evaluation.scores import load as load_scores
from tin.ranks.distributed import start

T = 4
CROP = 48


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("motions") / "videos"
    make_motions(folder, train=8, val=8, size=96, seed=0)
    return folder


@pytest.fixture(scope="module")
def run_dir(videos) -> Path:
    """A run of an untrained model whose scores differ from video to video."""
    dataset = videos.parent / "dataset"
    source = [f"shard.source={videos}", f"shard.labels={videos / 'labels.csv'}"]
    shard(load(None, [*source, "run.threads=1"]), dataset)
    settings = (f"clip.crop={CROP}", "clip.resize=64", "test.clips=2", "test.crops=10")
    return write_run(videos.parent / "run", dataset, f"clip.num_segments={T}", *settings)


def test_predictions_agree_with_a_test_of_the_same_videos(run_dir, videos):
    with start("cpu") as world:
        scores = load_scores(measure(run_dir, [], world))
    files = [videos / f"{key.replace('_', '/')}.mp4" for key in scores.keys]
    found = list(predict(run_dir, files))
    spread = scores.mean.max(axis=0) - scores.mean.min(axis=0)
    assert spread.max() > 0.1  # the model tells the videos apart
    for prediction, mean in zip(found, scores.mean, strict=True):
        best = np.argsort(-mean)[:5]
        predicted = dict(prediction.classes)
        scores_in_order = [score for _, score in prediction.classes]
        assert scores_in_order == sorted(predicted.values(), reverse=True)
        assert prediction.classes[0][0] == scores.classes[best[0]]
        for name, score in predicted.items():  # pixels of Pillow differ a little from DALI's
            assert score == pytest.approx(mean[scores.classes.index(name)], abs=2e-3)


def test_a_checkpoint_file_predicts_the_same_as_its_run(run_dir, videos):
    video = sorted(videos.rglob("*.mp4"))[0]
    (one,) = predict(run_dir, [video])
    (two,) = predict(run_dir / "checkpoints" / "best.pt", [video])
    assert one.classes == two.classes


def test_a_file_that_is_not_a_video_is_named_and_the_others_are_predicted(
    run_dir, videos, tmp_path
):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    bad, good = predict(run_dir, [text, sorted(videos.rglob("*.mp4"))[0]])
    assert bad.classes == []
    assert bad.record()["problem"].startswith("the file is not a video")
    assert set(good.record()) == {"video", "classes"}
    assert len(good.record()["classes"]) == 5


def test_the_strip_shows_the_frames_of_each_video_in_a_row(run_dir, videos, tmp_path):
    predictions = list(predict(run_dir, sorted(videos.rglob("*.mp4"))[:2]))
    save_strip(predictions, tmp_path / "strip.png")
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (2 * CROP + 4, T * CROP + (T - 1) * 4, 3)
    step = CROP + 4
    np.testing.assert_array_equal(
        strip[step:, 2 * step : 2 * step + CROP], predictions[1].frames[2]
    )


def test_a_folder_of_frames_is_a_video(run_dir, tmp_path):
    for frame in range(6):
        image = np.full((64, 80, 3), 40 * frame, np.uint8)
        Image.fromarray(image).save(tmp_path / f"{frame}.jpg", quality=95)
    (prediction,) = predict(run_dir, [tmp_path])
    middles = prediction.frames.mean(axis=(1, 2, 3))
    # 2 clips of 4 frames out of 6: the first clip takes the frame at a quarter of each part of 1.5.
    np.testing.assert_allclose(middles, [0, 40, 120, 160], atol=2)


def test_a_strip_without_frames_is_rejected(run_dir, tmp_path):
    predictions = list(predict(run_dir, [tmp_path / "nowhere.mp4"]))
    assert predictions[0].problem == "the file is missing"
    with pytest.raises(ValueError, match="none of the videos could be used"):
        save_strip(predictions, tmp_path / "strip.png")


def test_a_strip_in_an_unknown_format_is_rejected(tmp_path):
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"strip\.txt: unknown picture format"):
        save_strip([Prediction(Path("v.mp4"), [("a", 1.0)], frames)], tmp_path / "strip.txt")
    assert list(tmp_path.iterdir()) == []


def test_tin_predict_prints_bars_or_json(run_dir, videos, tmp_path):
    app = typer.Typer()
    add_to(app)
    arguments = [
        "predict",
        str(run_dir),
        str(sorted(videos.rglob("*.mp4"))[0]),
        str(tmp_path / "no.mp4"),
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 1  # one of the two files is missing
    lines = shown.stdout.splitlines()
    assert len(lines) == 7
    assert "█" in lines[1]
    assert lines[-1].endswith("no.mp4: the file is missing")
    strip = tmp_path / "strip.png"
    as_json = CliRunner().invoke(app, [*arguments[:3], "--json", "--strip", str(strip)])
    assert as_json.exit_code == 0
    assert len(json.loads(as_json.stdout)[0]["classes"]) == 5
    assert strip.exists()
