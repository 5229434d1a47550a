"""The recipes for real clips, from videos to the report: which class, and in which direction."""

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
    """Return a labels CSV of the clips of ucf101 and surv_fight; the groups decide the split."""
    with (shared / "videos" / "labels.csv").open() as file:
        rows = [
            {"path": row["file"], "labels": row["label"], "split": "", "group": row["group"]}
            for row in csv.DictReader(file)
            if row["dataset"] in ("ucf101", "surv_fight")
        ]
    assert len(rows) == 48
    return write_labels(tmp_path_factory.mktemp("labels") / "labels.csv", rows)


def make(name: str, shared: Path, labels: Path, folder: Path) -> ShardResult:
    """Make the dataset of a recipe, as `tin submit shard` does."""
    source = (f"shard.source={shared / 'videos'}", f"shard.labels={labels}")
    return shard(load(name, [*source, "shard.short_side=56"]), folder)


def run(name: str, dataset: Path, folder: Path) -> Path:
    """Train, test and report; return the folder of the test."""
    train(load(name, [*FEW_STEPS, f"data.dataset={dataset}"]), folder)
    with start("cpu") as world:
        tested = measure(folder, [], world)
    frame = load_runs([folder])
    assert len(frame) == 1
    row = frame.iloc[0]
    assert (row.recipe, row.state, row.num_segments) == (name, "done", 8)
    assert 0 <= row.top1 <= 1
    write_report(frame, folder / "report")
    assert name in (folder / "report" / "results.md").read_text()
    return tested


def test_which_class(shared, labels, tmp_path):
    dataset = tmp_path / "clips"
    assert make("clips", shared, labels, dataset) == ShardResult(48, 0)
    assert verify(dataset) == []
    info = read_info(dataset)
    assert len(info.classes) == 10
    keys = {split: open_split(dataset, split).keys() for split in ("train", "val")}
    groups = {
        split: {match[0] for key in keys[split] if (match := re.search(r"v_\w+_g\d+(?=_c)", key))}
        for split in keys
    }
    assert groups["train"] and groups["val"] and not groups["train"] & groups["val"]
    held = {key.split("_")[1] for key in keys["val"] if key.startswith("ucf101")}
    assert "Diving" in held
    assert not held & {"ApplyEyeMakeup", "BenchPress"}  # all their clips are of one group
    tested = run("clips", dataset, tmp_path / "run")
    assert load_scores(tested).scores.shape == (info.splits["val"], 1, 10)


def test_forwards_or_backwards(shared, labels, tmp_path):
    dataset = tmp_path / "direction"
    assert make("direction", shared, labels, dataset) == ShardResult(96, 0)
    info = read_info(dataset)
    assert info.classes == ("backwards", "forwards")
    val = open_split(dataset, "val")
    keys = val.keys()
    pairs = Counter(key.removesuffix("-reversed") for key in keys)
    assert set(pairs.values()) == {2}  # both directions of a clip stand in one split
    assert Counter(val.labels.tolist()) == {0: len(pairs), 1: len(pairs)}
    tested = run("direction", dataset, tmp_path / "run")
    assert load_scores(tested).scores.shape == (info.splits["val"], 1, 2)
