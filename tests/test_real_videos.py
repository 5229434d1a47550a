"""The recipes `clips` and `direction` on real clips, from videos to the report."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from synthetic_videos import write_labels

from configs.load import load
from preprocess.convert import ShardResult, shard
from preprocess.shards import open_split, read_info
from preprocess.verify import verify
from tin.evaluation.evaluate import test as measure
from tin.evaluation.scores import load as load_scores
from tin.ranks.distributed import start
from tin.reports.results import load_runs, write_report
from tin.training.trainer import train

FEW_STEPS = (
    "train.epochs=2", "clip.crop=48", "clip.resize=56", "run.device=cpu", "run.tensorboard=false",
    "run.check_node=false", "train.evaluate_every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def labels(shared, tmp_path_factory) -> Path:
    """A labels CSV of the clips of ucf101 and surv_fight, which are split by their groups."""
    with (shared / "videos" / "labels.csv").open() as file:
        rows = [
            {"path": row["file"], "labels": row["label"], "split": "", "group": row["group"]}
            for row in csv.DictReader(file)
            if row["dataset"] in ("ucf101", "surv_fight")
        ]
    assert len(rows) == 48
    return write_labels(tmp_path_factory.mktemp("labels") / "labels.csv", rows)


def make_dataset(recipe: str, shared: Path, labels: Path, folder: Path) -> ShardResult:
    """Make the dataset of a recipe, as `tin submit shard` does."""
    source = (f"shard.source={shared / 'videos'}", f"shard.labels={labels}")
    return shard(load(recipe, [*source, "shard.short_side=56"]), folder)


def train_test_report(recipe: str, dataset: Path, run_dir: Path) -> Path:
    """Train, test and report a run; return the folder of the test."""
    train(load(recipe, [*FEW_STEPS, f"data.dataset={dataset}"]), run_dir)
    with start("cpu") as world:
        test_dir = measure(run_dir, [], world)
    frame = load_runs([run_dir])
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (row.recipe, row.state, row.num_segments) == (recipe, "done", 8)
    assert 0 <= row.top1 <= 1
    write_report(frame, run_dir / "report")
    assert recipe in (run_dir / "report" / "results.md").read_text()
    return test_dir


def test_clips_learns_classes_and_splits_by_group(shared, labels, tmp_path):
    dataset = tmp_path / "clips"
    assert make_dataset("clips", shared, labels, dataset) == ShardResult(48, 0)
    assert verify(dataset) == []
    info = read_info(dataset)
    assert len(info.classes) == 10
    keys = {split: open_split(dataset, split).keys() for split in ("train", "val")}
    groups = {
        split: {match[0] for key in keys[split] if (match := re.search(r"v_\w+_g\d+(?=_c)", key))}
        for split in keys
    }
    assert groups["train"] and groups["val"] and not groups["train"] & groups["val"]
    held_out = {key.split("_")[1] for key in keys["val"] if key.startswith("ucf101")}
    assert "Diving" in held_out
    assert not held_out & {"ApplyEyeMakeup", "BenchPress"}  # all their clips are of one group
    test_dir = train_test_report("clips", dataset, tmp_path / "run")
    assert load_scores(test_dir).scores.shape == (info.splits["val"], 1, 10)


def test_direction_keeps_both_directions_of_a_clip_in_one_split(shared, labels, tmp_path):
    dataset = tmp_path / "direction"
    assert make_dataset("direction", shared, labels, dataset) == ShardResult(96, 0)
    info = read_info(dataset)
    assert info.classes == ("backwards", "forwards")
    val = open_split(dataset, "val")
    keys = val.keys()
    pairs = Counter(key.removesuffix("-reversed") for key in keys)
    assert set(pairs.values()) == {2}  # both directions of a clip are in one split
    assert Counter(val.labels.tolist()) == {0: len(pairs), 1: len(pairs)}
    test_dir = train_test_report("direction", dataset, tmp_path / "run")
    assert load_scores(test_dir).scores.shape == (info.splits["val"], 1, 2)
