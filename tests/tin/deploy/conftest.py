"""An untrained run of a small network on generated motions, whose scores differ by video."""

from collections.abc import Callable
from pathlib import Path

import pytest
from untrained_run import write_run

from configs.load import load
from preprocess.convert import shard
from preprocess.motions import make_motions

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
    return lambda *settings: write_run(tmp_path_factory.mktemp("runs") / "run", dataset, *settings)


@pytest.fixture(scope="session")
def run_dir(make_run) -> Path:
    """A run of a TIN."""
    return make_run()
