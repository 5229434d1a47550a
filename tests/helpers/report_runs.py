"""Finished runs with curves and tests, for reports of many runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from written_runs import START, write_attempt, write_run

from tin.evaluation.scores import Scores, save
from tin.runs.folder import OFFSETS, OFFSETS_FILE

EPOCHS = 20
STEPS_PER_EPOCH = 50


def write_sweep(
    folder: Path, num_runs: int, num_classes: int, num_videos: int, num_seeds: int = 3
) -> None:
    """Write runs of a sweep over networks, learning rates and seeds, all tested on one split.

    The accuracy of a run depends on its network: of three, the later ones are better.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, num_videos)
    difficulty = rng.normal(size=num_videos)
    classes = tuple(f"Pretending to do thing number {k}" for k in range(num_classes))
    for index in range(num_runs):
        model, seed = divmod(index, num_seeds)
        network = ("none", "shift", "interlace")[model % 3]
        rate = 0.01 * (1 + model // 3)
        run_dir = write_run(
            folder / f"{network}_lr-{rate:g}_seed-{seed}",
            f"model.temporal={network}",
            f"optim.lr={rate}",
            f"train.seed={seed}",
            "published=0.66",
        )
        skill = 0.2 + 0.4 * (model % 3) - 0.002 * (model // 3)
        _write_curves(run_dir, skill, rng)
        right = difficulty + 0.5 * rng.normal(size=num_videos) < skill
        scores = rng.random((num_videos, 1, num_classes)).astype(np.float32) * 0.5
        predicted = np.where(right, labels, (labels + 1) % num_classes)
        scores[np.arange(num_videos), 0, predicted] += 1
        scores /= scores.sum(axis=2, keepdims=True)
        keys = [f"video-{n}" for n in range(num_videos)]
        facts = {"dataset": "motions", "params": 24_000_000, "gflops": 33.0, "missing": []}
        save(run_dir / "tests" / "val-1x1-224", Scores(keys, labels, scores, classes), facts)


def _write_curves(run_dir: Path, skill: float, rng: np.random.Generator) -> None:
    """Write metrics.csv, steps.csv and offsets.csv with falling losses and one restart."""
    steps = np.arange(10, EPOCHS * STEPS_PER_EPOCH + 1, 10)
    frame = pd.DataFrame({"step": steps, "epoch": (steps - 1) // STEPS_PER_EPOCH})
    frame["time"] = START + steps + np.where(steps > 500, 1000, 0)
    frame["loss"] = 3 * np.exp(-steps / 300) + 0.5 - 0.2 * skill + 0.1 * rng.random(len(steps))
    frame["lr"] = 0.01 * (1 + np.cos(np.pi * steps / steps[-1]))
    frame["clips_per_s"] = 100 + 5 * rng.random(len(steps))
    frame["data_wait"] = 0.02 * rng.random(len(steps))
    frame.to_csv(run_dir / "steps.csv", index=False)
    rows = []
    for epoch in range(EPOCHS):
        reached = (1 - np.exp(-(epoch + 1) / 6)) * (0.5 + 0.3 * skill)
        for split, gap in (("train", 0.05), ("val", 0.0)):
            rows.append((epoch, split, (epoch + 1) * STEPS_PER_EPOCH, 1.5 - reached, reached + gap))
    columns = ["epoch", "split", "step", "loss", "top1"]
    pd.DataFrame(rows, columns=columns).to_csv(run_dir / "metrics.csv", index=False)
    for number, since in ((1, START), (2, START + 1505)):
        write_attempt(run_dir, number, commit="aaa1111", started=since, ended=since + 495)
    offsets = [
        (step, f"layer{1 + b}.0", *(np.array([1, -1, 0.1, 0.1, 0.5, 0.5]) * (1 + b * step / 9e3)))
        for step in range(1, 1000, 50)
        for b in range(4)
    ]
    pd.DataFrame(offsets, columns=OFFSETS).to_csv(run_dir / OFFSETS_FILE, index=False)
    (run_dir / "job" / "DONE").write_text(json.dumps({"train": START + 2500}))
