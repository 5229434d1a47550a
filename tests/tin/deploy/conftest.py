"""An untrained run of a small network on generated motions, whose scores differ by video."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from configs.load import dump, load
from preprocess.convert import shard
from preprocess.motions import make_motions
from preprocess.shards import read_info
from tin.models.network import build_model
from tin.runs import checkpoint
from tin.runs.folder import Run

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A folder of 16 videos for training and 16 for tests."""
    folder = tmp_path_factory.mktemp("motions") / "videos"
    make_motions(folder, train=16, val=16, size=64, seed=0)
    return folder


@pytest.fixture(scope="session")
def dataset(videos) -> Path:
    """The shards of `videos`."""
    folder = videos.parent / "dataset"
    source = [f"shard.source={videos}", f"shard.labels={videos / 'labels.csv'}"]
    shard(load(None, [*source, "run.threads=1"]), folder)
    return folder


@pytest.fixture(scope="session")
def make_run(dataset, tmp_path_factory) -> MakeRun:
    """A function that writes a run with random weights, from the settings that differ."""

    def make(*settings: str) -> Path:
        config = load(None, [
            f"data.dataset={dataset}", "model.arch=resnet18", "clip.num_segments=4",
            "clip.crop=32", "clip.resize=40", "run.threads=1", "run.device=cpu", "test.batch=4",
            "run.readers=2", *settings,
        ])  # fmt: skip
        classes = read_info(dataset).classes
        torch.manual_seed(0)
        model = build_model(config, len(classes))
        torch.nn.init.normal_(model.fc.weight, std=0.2)
        for name, parameter in model.named_parameters():
            if "offset" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp("runs") / "run"
        state = {
            "config": config.model_dump(mode="json"),
            "classes": list(classes),
            "epoch": 0,
            "global_step": 0,
            "model": model.state_dict(),
            "ema": None,
        }
        checkpoint.save(Run(folder), state, "best.pt")
        (folder / "config.yaml").write_text(dump(config))
        return folder

    return make


@pytest.fixture(scope="session")
def run_dir(make_run) -> Path:
    """A run of a TIN."""
    return make_run()
