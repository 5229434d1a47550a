"""A full cycle on real clips, typed as a user types it: UCF101's own files to a fused report."""

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
HELD_OUT = re.compile("v_(Biking|Diving|PizzaTossing|WallPushups)_g01_")  # train has others


@pytest.fixture(autouse=True)
def _logging_is_pytests(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logging", lambda rank: None)


def tin(*words: object) -> str:
    """Run a command and return what it prints."""
    found = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert found.exit_code == 0, found.output + repr(found.exception)
    return found.stdout


def write_lists(folder: Path, videos: list[str]) -> None:
    """Write UCF101's annotation files for `CLASS/v_CLASS_gNN_cNN.avi`."""
    folder.mkdir()
    classes = sorted({video.split("/")[0] for video in videos})
    numbers = {name: number for number, name in enumerate(classes, 1)}
    text = "".join(f"{number} {name}\n" for name, number in numbers.items())
    (folder / "classInd.txt").write_text(text)
    lists = {"trainlist01.txt": [], "testlist01.txt": []}
    for video in videos:
        if HELD_OUT.search(video):
            lists["testlist01.txt"].append(f"{video}\n")
        else:
            lists["trainlist01.txt"].append(f"{video} {numbers[video.split('/')[0]]}\n")
    for name, lines in lists.items():
        (folder / name).write_text("".join(lines))


def test_ucf101_from_its_own_files_to_the_report_of_two_fused_models(shared, tmp_path):
    source, shards, runs = shared / "videos" / "ucf101", tmp_path / "ucf101", tmp_path / "runs"
    videos = sorted(str(path.relative_to(source)) for path in source.glob("*/v_*_g*.avi"))
    write_lists(tmp_path / "ucfTrainTestlist", videos)
    told = tin(
        "shard", source, shards, "--dataset", "ucf101", "--annotations",
        tmp_path / "ucfTrainTestlist", "shard.short_side=56",
    )  # fmt: skip
    assert f"{len(videos)} videos, 0 in quarantine" in told
    info = read_info(shards)
    assert len(info.classes) == 8
    assert info.splits["val"] == sum(bool(HELD_OUT.search(video)) for video in videos)

    torch.manual_seed(0)
    kinetics = TIN(400, "resnet18", "interlace", num_segments=8, shift_div=4)
    export_reference(kinetics, "resnet18", tmp_path / "kinetics.pth.tar")
    account = tin("weights", "import", tmp_path / "kinetics.pth.tar")
    assert "FAILED" not in account

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

    tin("fuse", *tests, "--out", tmp_path / "fused", "--weights", "3,1")
    want = 0.75 * scores[0].scores.mean(1) + 0.25 * scores[1].scores.mean(1)
    fused = load_scores(tmp_path / "fused")
    np.testing.assert_allclose(fused.scores[:, 0], want, atol=1e-6)
    top1 = json.loads((tmp_path / "fused" / "result.json").read_text())["metrics"]["top1"]
    assert top1 == pytest.approx(np.mean(want.argmax(1) == fused.labels))

    tin("report", runs, "--out", tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    assert table.temporal.tolist() == ["interlace", "none"]
    assert (table.recipe == "tin_r50_8f_ucf101").all() and (table.views == "2x3").all()
    assert (table.state == "done").all() and (table.dataset == "ucf101").all()
    for row, part in zip(table.itertuples(), scores, strict=True):
        assert row.top1 == pytest.approx(np.mean(part.mean.argmax(1) == part.labels))
