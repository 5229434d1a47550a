"""What the demo's network learns on generated clips: direction by module, flips, labels."""

from pathlib import Path

import pytest

from configs.load import load
from preprocess.convert import shard
from preprocess.motions import make_motions
from tin.evaluation.evaluate import test as measure
from tin.evaluation.opposites import pair_accuracy
from tin.evaluation.scores import Scores, summarize
from tin.evaluation.scores import load as load_scores
from tin.ranks.distributed import start
from tin.training.trainer import train

SIZE = 32  # pixels; the demo stores 64 and crops 32
MIRRORED = (("left", "right"), ("clockwise", "counter-clockwise"))
UPRIGHT = (("up", "down"), ("grow", "shrink"))


def make_dataset(folder: Path, num_videos: int, motions: int = 1) -> Path:
    """Make videos and their shards; turns are left out where a shape has several motions."""
    labels = make_motions(
        folder / "videos", train=num_videos, val=num_videos // 8, size=SIZE, motions=motions
    )
    settings = [f"shard.source={folder / 'videos'}", f"shard.labels={labels}"]
    if motions > 1:
        settings.append("shard.multi_label=true")
        rows = labels.read_text().splitlines(keepends=True)
        # a turn is seen only after more steps than a test has
        labels.write_text("".join(row for row in rows if "clockwise" not in row))
    shard(load(None, settings), folder / "shards")
    return folder / "shards"


@pytest.fixture(scope="module")
def one_motion(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("one"), 1600)


def learned(run: Path, dataset: Path, *settings: str) -> Scores:
    """Train the demo's recipe, measure it and return its scores of split val."""
    fixed = [f"data.dataset={dataset}", "run.device=cpu", "run.tensorboard=false"]
    # sums depend on the number of threads, and so a little does what is learned
    fixed += ["run.threads=2", "run.check_node=false"]
    train(load("demo", [*fixed, *settings]), run)
    with start("cpu") as world:
        return load_scores(measure(run, [], world))


def told_apart(scores: Scores, pairs: tuple[tuple[str, str], ...]) -> float:
    """Return the accuracy within pairs of classes."""
    places = [(scores.classes.index(one), scores.classes.index(two)) for one, two in pairs]
    return pair_accuracy(scores.mean, scores.labels, places)


def test_a_network_of_single_frames_learns_the_axis_of_motion_alone(one_motion, tmp_path):
    scores = learned(tmp_path, one_motion, "model.temporal=none", "train.epochs=2")
    assert 0.4 < summarize(scores)["top1"] < 0.6  # a half is its bound
    assert 0.4 < told_apart(scores, MIRRORED + UPRIGHT) < 0.6


def test_a_temporal_convolution_learns_the_direction_of_motion(one_motion, tmp_path):
    scores = learned(tmp_path, one_motion, "model.temporal=conv")  # TSM and TIN: `make demo`
    assert summarize(scores)["top1"] > 0.9


def test_flips_that_swap_labels_keep_what_flips_without_ruin(one_motion, tmp_path):
    swapped = learned(tmp_path / "swapped", one_motion, "augment.flip=labels", "train.epochs=3")
    ruined = learned(tmp_path / "ruined", one_motion, "augment.flip=random", "train.epochs=2")
    assert summarize(swapped)["top1"] > 0.9
    assert told_apart(swapped, MIRRORED) > 0.9
    assert 0.35 < told_apart(ruined, MIRRORED) < 0.65  # chance is a half
    assert told_apart(ruined, UPRIGHT) > 0.9  # which a mirror leaves alone


def test_two_motions_at_a_time_are_two_labels(tmp_path):
    dataset = make_dataset(tmp_path, 1440, motions=2)
    settings = "train.loss=bce", "optim.lr=0.04", "train.epochs=3"
    scores = learned(tmp_path / "run", dataset, *settings)
    assert scores.labels.sum(1).tolist() == [2] * len(scores.keys)
    assert summarize(scores)["map_class"] > 0.9
