"""Measures the speed of the loader and of training on a dataset."""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from configs.load import load
from pipeline.loader import ClipLoader
from preprocess.integrity import check_dataset
from tin.bench.cases import SHIFT_DIV
from tin.bench.timing import Report, Value, deciles, measuring_device
from tin.training.trainer import train

MIN_BATCHES = 20  # batches that `bench_data` times at least


def bench_data(dataset: Path, seconds: float = 20.0, settings: Sequence[str] = ()) -> Report:
    """Time the loader alone, which delivers batches of training clips as fast as it can."""
    device = measuring_device()
    report = Report("data", device)
    config = load(None, ["train.batch=8", *settings])
    check_dataset(dataset, [config.data.train_split])
    loader = ClipLoader(dataset, config.data.train_split, config, training=True, device=str(device))
    times: list[float] = []
    previous: float | None = None
    cpu_began = 0.0
    end = time.perf_counter() + seconds
    with contextlib.closing(loader):
        for epoch in itertools.count():
            for _ in loader.epoch(epoch):
                now = time.perf_counter()
                if previous is None:  # the first batch starts threads and is not timed
                    cpu_began = time.process_time()
                else:
                    times.append(now - previous)
                previous = now
            if time.perf_counter() >= end and len(times) >= MIN_BATCHES:
                break
        cpu_seconds = time.process_time() - cpu_began
    p10, p90 = deciles(times)
    batch = config.train.batch // config.train.accumulate
    num_clips = batch * len(times)
    report.add(
        {
            "batch": batch,
            "crop": config.clip.crop,
            "clips_per_s": num_clips / sum(times),
            "cpu_ms_a_clip": 1e3 * cpu_seconds / num_clips,
            "median_ms": 1e3 * statistics.median(times),
            "p10_ms": 1e3 * p10,
            "p90_ms": 1e3 * p90,
            "batches": len(times),
        }
    )
    return report


def bench_train(
    dataset: Path,
    settings: Sequence[str] = (),
    forms: Sequence[str] = ("none",),
    path: Path | None = None,
) -> Report:
    """Time training with its loader: the second of two epochs, for each temporal module.

    Args:
        dataset: folder of the dataset.
        settings: settings of the runs that differ from the default.
        forms: values of `train.compile`.
        path: file that holds the rows measured so far.
    """
    report = Report("train", measuring_device(), path=path)
    for form, (temporal, shift_div) in itertools.product(forms, SHIFT_DIV.items()):
        config = load(
            None,
            [
                "train.batch=8",
                "train.epochs=2",
                "optim.scale_lr=true",
                "optim.warmup_epochs=0",
                "model.init=none",
                "run.log_steps=1000000",  # one row an epoch
                f"data.dataset={dataset}",
                *settings,
                f"train.compile={form}",
                f"model.temporal={temporal}",
                f"model.shift_div={shift_div}",
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder, "run")
            train(config, run_dir)
            row = pd.read_csv(run_dir / "steps.csv").iloc[-1].dropna()
        facts: dict[str, Value] = {
            "compile": form,
            "temporal": temporal,
            "batch": config.train.batch,
        }
        for name in ("clips_per_s", "data_wait", "memory_gb", "gpu_use"):
            if name in row:
                facts[name] = float(row[name])
        report.add(facts)
    return report
