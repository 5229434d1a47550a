"""All commands in a row on real clips: from UCF101's annotation files to a report of two models."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from launch import cli
from preprocess.shards import read_info
from tin.evaluation.scores import load as load_scores
from tin.models.network import TIN
from tin.models.weights import export_reference

SMALL = (
    "model.arch=resnet18", "clip.crop=48", "clip.resize=56", "train.batch=8", "train.epochs=2",
    "optim.lr_batch=8", "optim.milestones=[1]", "optim.warmup_epochs=0.5", "train.evaluate_every=2",
    "run.device=cpu", "run.tensorboard=false", "run.check_node=false",
)  # fmt: skip
HELD_OUT = re.compile("v_(Biking|Diving|PizzaTossing|WallPushups)_g01_")
"""Videos of the test list; the train list has other groups of these classes."""


@pytest.fixture(autouse=True)
def _keep_the_logging_of_pytest(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logging", lambda rank: None)


def tin(*arguments: object) -> str:
    """Run a command, which must succeed; return what it prints."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def write_lists(folder: Path, videos: list[str]) -> None:
    """Write UCF101's annotation files for videos named `CLASS/v_CLASS_gNN_cNN.avi`."""
    folder.mkdir()
    classes = sorted({video.split("/")[0] for video in videos})
    numbers = {name: number for number, name in enumerate(classes, 1)}
    text = "".join(f"{number} {name}\n" for name, number in numbers.items())
    (folder / "classInd.txt").write_text(text)
    lists: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    for video in videos:
        if HELD_OUT.search(video):
            lists["testlist01.txt"].append(f"{video}\n")
        else:
            lists["trainlist01.txt"].append(f"{video} {numbers[video.split('/')[0]]}\n")
    for name, lines in lists.items():
        (folder / name).write_text("".join(lines))


def test_ucf101_from_its_own_files_to_the_report_of_two_fused_models(shared, tmp_path):
    # Shard the videos by their annotation files.
    source = shared / "videos" / "ucf101"
    shards = tmp_path / "ucf101"
    runs = tmp_path / "runs"
    videos = sorted(str(path.relative_to(source)) for path in source.glob("*/v_*_g*.avi"))
    write_lists(tmp_path / "ucfTrainTestlist", videos)
    printed = tin(
        "shard", source, shards, "--dataset", "ucf101", "--annotations",
        tmp_path / "ucfTrainTestlist", "shard.short_side=56",
    )  # fmt: skip
    assert f"{len(videos)} videos, 0 in quarantine" in printed
    info = read_info(shards)
    assert len(info.classes) == 8
    assert info.splits["val"] == sum(bool(HELD_OUT.search(video)) for video in videos)

    # Import pretrained weights in the format of the original code.
    torch.manual_seed(0)
    kinetics = TIN(400, "resnet18", "interlace", num_segments=8, shift_div=4)
    export_reference(kinetics, "resnet18", tmp_path / "kinetics.pth.tar")
    account = tin("weights", "import", tmp_path / "kinetics.pth.tar")
    assert "FAILED" not in account

    # Train and test two models.
    tests = []
    for temporal in ("interlace", "none"):
        run = runs / temporal
        tin(
            "train", "tin_r50_8f_ucf101", "--run", run, f"data.dataset={shards}", *SMALL,
            f"model.init={tmp_path / 'kinetics.pth.tar'}", f"model.temporal={temporal}",
        )  # fmt: skip
        tin("test", run, "--views", "2x3", "--crop", "56")
        tests.append(run / "tests" / "val-2x3-56")
    scores = [load_scores(test) for test in tests]
    assert all(part.scores.shape == (info.splits["val"], 6, 8) for part in scores)

    # Fuse their scores: a weighted mean of the means over views.
    tin("fuse", *tests, "--out", tmp_path / "fused", "--weights", "3,1")
    expected = 0.75 * scores[0].scores.mean(1) + 0.25 * scores[1].scores.mean(1)
    fused = load_scores(tmp_path / "fused")
    np.testing.assert_allclose(fused.scores[:, 0], expected, atol=1e-6)
    top1 = json.loads((tmp_path / "fused" / "result.json").read_text())["metrics"]["top1"]
    assert top1 == pytest.approx(np.mean(expected.argmax(1) == fused.labels))

    # Report both runs.
    tin("report", runs, "--out", tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    assert table.temporal.tolist() == ["interlace", "none"]
    assert (table.recipe == "tin_r50_8f_ucf101").all() and (table.views == "2x3").all()
    assert (table.state == "done").all() and (table.dataset == "ucf101").all()
    for row, part in zip(table.itertuples(), scores, strict=True):
        assert row.top1 == pytest.approx(np.mean(part.mean.argmax(1) == part.labels))
