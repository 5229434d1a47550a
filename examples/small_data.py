"""What the settings for small datasets bring on generated motions, as in docs/own-videos.md.

Usage: small_data.py FOLDER [--seeds N]. Two experiments share the videos of `tin data demo`:

- Imbalance: four frequent classes with 100 videos each and four rare ones with 1 each.
- Few videos: a network is trained on four classes with 100 videos each, and then on the other four
  classes with 10 videos each.

All networks are small and their frames have 32 pixels, so that one core needs a few minutes. The
tables are printed as Markdown, with 95 % intervals over seeds and videos.
"""

import argparse
import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.load import load
from preprocess.convert import shard
from preprocess.motions import PAIRS, make_motions
from tin.evaluation.evaluate import test
from tin.evaluation.metrics import label_ranks
from tin.evaluation.scores import Scores
from tin.evaluation.scores import load as load_scores
from tin.ranks.distributed import start
from tin.reports.statistics import estimate
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.training.trainer import train

FREQUENT = [name for pair in PAIRS[:2] for name in pair]
RARE = [name for pair in PAIRS[2:] for name in pair]
MANY = 100
NUM_VAL = 200
COMMON = (
    "run.device=cpu", "run.threads=1", "run.tensorboard=false", "run.check_node=false",
    "run.log_steps=1000", "optim.lr_batch=8", "train.batch=8", "train.evaluate_every=1000",
    "test.checkpoint=last",
)  # fmt: skip
IMBALANCE = {
    "nothing": [],
    "train.class_weights=sqrt": ["train.class_weights=sqrt"],
    "train.class_weights=inverse": ["train.class_weights=inverse"],
    "data.balanced=true": ["data.balanced=true"],
}
ADAMW = ["optim.optimizer=adamw", "optim.lr=0.0005", "optim.weight_decay=0.01"]
FEW = {
    "random weights": ["model.init=none"],
    "trained weights": [],
    "and train.freeze=layer2": ["train.freeze=layer2"],
    "and train.freeze=layer4": ["train.freeze=layer4"],
    "and optim.optimizer=adamw": ADAMW,
    "and adamw, optim.layer_decay=0.7": [*ADAMW, "optim.layer_decay=0.7"],
}
"""Choices by the name of their row; all but the first start from the trained network."""


def main() -> None:
    """Read the command line, train all networks, and print the tables."""
    parser = argparse.ArgumentParser(description="Measure the settings for small datasets.")
    parser.add_argument("folder", type=Path, help="Folder for videos, shards and runs.")
    parser.add_argument("--seeds", type=int, default=3, help="Seeds of each choice (default: 3).")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    seeds = range(given.seeds)
    datasets = make_datasets(given.folder)
    groups = {"all": [*FREQUENT, *RARE], "frequent": FREQUENT, "rare": RARE}
    measured = {
        name: [
            train_and_test(
                given.folder / "runs" / f"imbalance-{number}-{seed}",
                [f"data.dataset={datasets['imbalance']}", "train.epochs=3", *settings],
                seed,
            )
            for seed in seeds
        ]
        for number, (name, settings) in enumerate(IMBALANCE.items())
    }
    print_table("Imbalance 100:1", measured, groups)
    first = given.folder / "runs" / "first"
    train_and_test(first, [f"data.dataset={datasets['first']}", "train.epochs=3"], 0)
    weights = checkpoint.newest(Run(first))
    few = [f"data.dataset={datasets['few']}", "train.epochs=12", f"model.init={weights}"]
    measured = {
        name: [
            train_and_test(given.folder / "runs" / f"few-{number}-{seed}", [*few, *settings], seed)
            for seed in seeds
        ]
        for number, (name, settings) in enumerate(FEW.items())
    }
    print_table("10 videos a class", measured, {"all": RARE})


def make_datasets(folder: Path) -> dict[str, Path]:
    """Generate the videos, and write the three datasets unless they exist."""
    videos = folder / "videos"
    if not (videos / "labels.csv").exists():
        make_motions(videos, train=len(PAIRS) * 2 * MANY, val=NUM_VAL)
    with (videos / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {
        "imbalance": {**dict.fromkeys(FREQUENT, MANY), **dict.fromkeys(RARE, MANY // 100)},
        "first": dict.fromkeys(FREQUENT, MANY),
        "few": dict.fromkeys(RARE, 10),
    }
    datasets = {}
    for name, wanted in counts.items():
        datasets[name] = folder / "shards" / name
        left = dict(wanted)
        chosen = []
        for row in rows:
            if row["split"] == "train" and left.get(row["labels"], 0) > 0:
                left[row["labels"]] -= 1
                chosen.append(row)
            elif row["split"] == "val" and row["labels"] in wanted:
                chosen.append(row)
        labels = folder / f"{name}.csv"
        with labels.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(chosen)
        settings = [f"shard.source={videos}", f"shard.labels={labels}", "shard.short_side=32"]
        if not (datasets[name] / "dataset.yaml").exists():
            shard(load(None, settings), datasets[name])
    return datasets


def train_and_test(run_dir: Path, settings: Sequence[str], seed: int) -> Scores:
    """Train a run unless it is complete, and return the scores of its last checkpoint."""
    if "train" not in Run(run_dir).done():
        train(load("demo", [*COMMON, *settings, f"train.seed={seed}"]), run_dir)
    with start("cpu") as world:
        return load_scores(test(run_dir, [], world))


def print_table(
    title: str, measured: dict[str, list[Scores]], groups: dict[str, Sequence[str]]
) -> None:
    """Print the top-1 accuracy in percent for groups of classes, with its 95 % interval."""
    print(f"\n| {title} | {' | '.join(f'{name} classes' for name in groups)} |")
    print(f"|---|{'---|' * len(groups)}")
    for name, seeds in measured.items():
        labels = seeds[0].labels
        right = np.stack([label_ranks(one.mean, one.labels) == 0 for one in seeds])
        cells = []
        for classes in groups.values():
            wanted = [seeds[0].classes.index(one) for one in classes]
            found = estimate(right[:, np.isin(labels, wanted)].astype(np.float32))
            low = 100 * max(found.low, 0)
            high = 100 * min(found.high, 1)
            cells.append(f"{100 * found.mean:.1f} ({low:.1f} to {high:.1f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
