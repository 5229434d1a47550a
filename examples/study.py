"""The study of docs/study.md: accuracy by difficulty with intervals, and paired tests.

Usage: study.py RUNS LABELS_CSV. RUNS is the folder of a sweep over model.temporal and train.seed,
LABELS_CSV the file that `tin data graded` wrote. The tables are printed as Markdown.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from preprocess.annotations.labels import default_key
from preprocess.graded_motions import DIFFICULTIES
from tin.evaluation.metrics import label_ranks
from tin.evaluation.scores import load
from tin.reports.results import load_runs
from tin.reports.statistics import compare, estimate, holm, smallest_difference
from tin.reports.tables import p_text

CLAIMED = "interlace"
OTHERS = ("shift", "conv", "none")


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description="Analyze the study of temporal modules.")
    parser.add_argument("runs", type=Path, help="Folder of the runs of the sweep.")
    parser.add_argument("labels", type=Path, help="labels.csv of the videos.")
    given = parser.parse_args()
    frame = load_runs([given.runs])
    frame = frame[frame["test"].notna() & frame["top1"].notna()]
    with given.labels.open(newline="") as file:
        videos = {
            default_key(row["path"]): row for row in csv.DictReader(file) if row["split"] == "val"
        }
    right, keys = read_tests(frame)
    facts = [videos[key] for key in keys]
    print_cost(frame)
    print_accuracy(right, facts)
    print_comparisons(right, facts)


def read_tests(frame) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return whether each model is right on each video, ``(seeds, videos)``, and the keys."""
    found: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    keys: list[str] = []
    for row in frame.itertuples():
        scores = load(Path(row.run) / "tests" / row.test)
        keys = keys or scores.keys
        if scores.keys != keys:
            raise SystemExit(f"{row.run} was tested on other videos than the first run")
        found[row.temporal].append(label_ranks(scores.mean, scores.labels) == 0)
    return {name: np.stack(seeds).astype(np.float32) for name, seeds in found.items()}, keys


def print_cost(frame) -> None:
    """Print parameters, operations and training speed of each network."""
    print("| network | seeds | params M | GFLOPs | clips/s in training |")
    print("|---|---|---|---|---|")
    for name, rows in frame.groupby("temporal", sort=False):
        params = float(rows["params"].iloc[0]) / 1e6
        speed = rows["clips_per_s"].median()
        print(
            f"| {name} | {len(rows)} | {params:.2f} | {rows['gflops'].iloc[0]:.3f} | {speed:.0f} |"
        )


def print_accuracy(right: dict[str, np.ndarray], facts: list[dict[str, str]]) -> None:
    """Print the top-1 accuracy by difficulty in percent, with its 95 % interval."""
    print(f"\n| difficulty | videos | {' | '.join(right)} |")
    print(f"|---|---|{'---|' * len(right)}")
    for difficulty, chosen, groups in parts(facts):
        cells = []
        for values in right.values():
            found = estimate(values[:, chosen], groups)
            low = 100 * max(found.low, 0)
            high = 100 * min(found.high, 1)
            cells.append(f"{100 * found.mean:.1f} ({low:.1f} to {high:.1f})")
        print(f"| {difficulty} | {chosen.sum()} | {' | '.join(cells)} |")


def print_comparisons(right: dict[str, np.ndarray], facts: list[dict[str, str]]) -> None:
    """Print the paired tests of interlacing against the other networks, corrected together."""
    rows = []
    for difficulty, chosen, groups in parts(facts):
        for other in OTHERS:
            if CLAIMED in right and other in right:
                first = right[CLAIMED][:, chosen]
                second = right[other][:, chosen]
                smallest = smallest_difference(first[0] - second[0], groups)
                rows.append((difficulty, other, compare(first, second, groups), smallest))
    corrected = holm([found.p for _, _, found, _ in rows])
    print(f"\n| difficulty | {CLAIMED} minus | points (95 %) | p corrected | smallest to show |")
    print("|---|---|---|---|---|")
    for (difficulty, other, found, smallest), p in zip(rows, corrected, strict=True):
        ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
        print(
            f"| {difficulty} | {other} | {100 * found.difference:+.1f} ({ends}) | {p_text(p)}"
            f" | {100 * smallest:.1f} |"
        )


def parts(facts: list[dict[str, str]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return each difficulty and all together: name, which videos, and their groups."""
    difficulty = np.array([one["difficulty"] for one in facts])
    groups = np.array([one["group"] for one in facts])
    names = [*sorted(set(difficulty.tolist()), key=DIFFICULTIES.index), "all videos"]
    chosen = [np.full(len(facts), True) if n == "all videos" else difficulty == n for n in names]
    return [(name, mask, groups[mask]) for name, mask in zip(names, chosen, strict=True)]


if __name__ == "__main__":
    main()
