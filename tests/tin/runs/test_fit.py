"""Settings of folds that do not fit a run or its dataset are rejected before torch is imported."""

import pytest
from synthetic_videos import gray_frames, shard_config, write_clip

from configs.load import ConfigError, load
from preprocess.convert import shard
from tin.runs.fit import check_training


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of four videos of two classes, each its own group."""
    folder = tmp_path_factory.mktemp("fit")
    for number in range(4):
        write_clip(folder / "s" / "ab"[number % 2] / f"{number}.mp4", gray_frames(3))
    shard(shard_config(folder / "s"), folder / "d")
    return folder / "d"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "data.folds=2",
            "holds out a part of .* evaluated; set data.test_split=fold, or",
        ),
        ("data.folds=5 data.test_split=fold", "4 groups, which data.folds 5 cannot divide"),
        ("data.folds=2 data.test_split=fold train.batch=3", "more than the 2 videos .*batch=2"),
        ("data.test_split=fold", "no split fold in"),
    ],
)
def test_folds_that_do_not_fit_are_rejected(dataset, settings, message):
    config = load(None, [f"data.dataset={dataset}", "model.init=none", *settings.split()])
    with pytest.raises(ConfigError, match=message):
        check_training(config, is_new=True)


def test_folds_that_fit_are_accepted(dataset):
    settings = ["data.folds=2", "data.test_split=fold", "train.batch=2", "model.init=none"]
    check_training(load(None, [f"data.dataset={dataset}", *settings]), is_new=True)
