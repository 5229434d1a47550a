"""Two streams on generated motions: frames and their flow, trained, tested and fused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch import cli
from preprocess.motions import make_motions

pytest.importorskip("cv2", reason="the extra `flow` is not installed")
SMALL = (
    "model.arch=resnet18", "model.temporal=none", "model.init=none", "model.dropout=0",
    "clip.num_segments=4", "clip.crop=32", "clip.resize=32", "augment.scales=[1.0]",
    "train.batch=16", "train.bn=full", "optim.lr=0.02", "optim.lr_batch=16",
    "optim.classifier_lr=1", "optim.warmup_epochs=0.5", "train.epochs=4", "train.evaluate_every=4",
    "run.device=cpu", "run.tensorboard=false", "run.check_node=false",
)  # fmt: skip
FLOW = ("clip.modality=flow", "clip.frames_per_segment=5")


@pytest.fixture(autouse=True)
def _keep_the_logging_of_pytest(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logging", lambda rank: None)


def tin(*arguments: object) -> str:
    """Run a command, which must succeed; return what it prints."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def accuracy(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["metrics"]["top1"]


def test_a_network_of_single_flow_frames_learns_directions_and_is_fused_with_rgb(tmp_path):
    """Frames tell the axis of a motion but not its direction; flow tells both."""
    labels = make_motions(tmp_path / "videos", train=160, val=48, size=32)
    shard = ("shard", tmp_path / "videos")
    options = ("--labels", labels, "shard.short_side=32", "run.threads=2")
    tin(*shard, tmp_path / "rgb", *options)
    tin(*shard, tmp_path / "flow", *options, "shard.flow=dis")
    tests = []
    for stream, settings in {"rgb": (), "flow": FLOW}.items():
        run = tmp_path / f"run-{stream}"
        data = f"data.dataset={tmp_path / stream}"
        tin("train", "demo", "--run", run, data, *SMALL, *settings)
        tin("test", run)
        tests.append(run / "tests" / "val-1x1-32")
    tin("fuse", *tests, "--out", tmp_path / "both", "--weights", "1,1.5", "--average", "logits")
    rgb, flow, both = (accuracy(folder) for folder in (*tests, tmp_path / "both"))
    assert rgb <= 0.5  # at most one video of a pair of opposite motions
    assert flow > 0.6
    assert both > rgb
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    assert result["average"] == "logits"
    assert result["weights"] == [0.4, 0.6]
