"""Run folders with training, attempts and tests, written by hand."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import dump, load
from tin.bench.diagnosis import FILE, Conditions, Diagnosis, Times, diagnose
from tin.evaluation.scores import Scores, save

METRICS = "epoch,split,step,loss,top1,top5,map_class,map_sample,lr,seconds,clips_per_s,data_wait"
STEPS = "epoch,step,time,loss,lr,clips_per_s,data_wait,memory_gb,gpu_use,gpu_power,skipped"
CLASSES = ("left", "right", "<b>&up", "down")
START = 1_700_000_000


def write_run(folder: Path, *settings: str) -> Path:
    """Write a finished run of three epochs and two attempts, without a test."""
    (folder / "job").mkdir(parents=True)
    config = load(None, ["recipe=demo", "data.dataset=/data/motions", "model.init=none", *settings])
    (folder / "config.yaml").write_text(dump(config))
    rows = [
        f"{epoch},{split},{10 * (epoch + 1)},{2 - epoch / 2},{top1},{top1},,,0.01,9,{rate},0.02"
        for epoch, top1 in enumerate([0.25, 0.75, 0.5])
        for split, rate in (("train", 100 + 10 * epoch), ("val", 300))
    ]
    (folder / "metrics.csv").write_text("\n".join([METRICS, *rows]) + "\n")
    steps = [f"{n // 10},{n},{START + 10 * n},2.0,0.01,99,0.03,,,,0" for n in range(30)]
    (folder / "steps.csv").write_text("\n".join([STEPS, *steps]) + "\n")
    write_attempt(folder, 1, commit="aaa1111", started=START)  # killed after the step at second 290
    write_attempt(folder, 2, commit="bbb2222", started=START + 1000, ended=START + 2800)
    (folder / "job" / "DONE").write_text(json.dumps({"train": START + 2800}))
    return folder


def write_attempt(folder: Path, number: int, **facts: object) -> None:
    """Write the files of an attempt on 4 GPUs, or on what `facts` say."""
    (folder / "job" / f"attempt-{number:02d}").write_text("{}")
    facts = {"device": "cuda:0", "world_size": 4, **facts}
    (folder / f"environment-{number:02d}.json").write_text(json.dumps(facts))


def write_test(run_dir: Path, name: str, right: int) -> Path:
    """Write a test of four videos, one of each class; the first `right` are predicted correctly."""
    views = np.full((4, 1, 4), 0.1, np.float32)
    views[np.arange(4), 0, [k if k < right else (k + 1) % 4 for k in range(4)]] = 0.7
    result = {"dataset": "motions", "params": 1_000_000, "gflops": 2.5, "missing": ["v9"]}
    keys = [f"v{k}" for k in range(4)]
    save(run_dir / "tests" / name, Scores(keys, np.arange(4), views, CLASSES), result)
    return run_dir / "tests" / name


def write_diagnosis(run_dir: Path) -> Diagnosis:
    """Write what `tin doctor` may have measured; the forward pass bounds the run."""
    times = {field.name: 0.125 for field in fields(Times)} | {"forward": 4.0, "wait": 0.0}
    conditions: dict[str, Any] = {field.name: 1 for field in fields(Conditions)}
    conditions |= {"device": "cpu", "hardware": "a machine", "precision": "float32"}
    conditions |= {"compile": "none", "decode": "cpu"}
    found = diagnose(Times(**times), Conditions(**conditions))
    found.save(run_dir / FILE)
    return found
