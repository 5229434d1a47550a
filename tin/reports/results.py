"""Results: one table of many runs, as a DataFrame, csv, markdown and a page of html."""

import contextlib
import functools
import json
import logging
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.load import ConfigError, dataset_path, parse, read_yaml
from configs.schema import Config
from preprocess.shards import read_info
from tin.evaluation.scores import ScoresError, load_result
from tin.models.network import build_model
from tin.models.size import count
from tin.reports.page import page
from tin.reports.tables import PERCENT, markdown, readable
from tin.runs import checkpoint
from tin.runs.folder import Run

log = logging.getLogger(__name__)

TEST_METRICS = ("top1", "top5", "mean_class", "map_class", "map_sample")
COLUMNS = (
    "run recipe dataset temporal arch num_segments views crop pretrained seed epochs global_batch"
    " params gflops top1 top5 mean_class map_class map_sample best_epoch published delta"
    " clips_per_s data_wait gpu_hours restarts state commit"
).split()
WHOLE = "num_segments crop seed epochs global_batch params best_epoch restarts".split()
SILENT_MINUTES = 30  # after so long without a word a run that did not end counts as lost


def load_runs(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return a table of runs, one row a run and test.

    Fractions, not percent. ``clips_per_s`` and ``data_wait`` are of training, ``best_epoch``
    counts from 1, ``gflops`` are 10^9 multiply-adds of a view. ``gpu_hours`` sums all attempts; one
    that was killed counts up to the last step that it left. A run without a test shows what was
    measured after its best epoch.

    Args:
        paths: run folders, or folders that hold runs at any depth. Paths without a run, and runs
            that wait, run, were lost or cannot be read, get a row that says so in ``state``.
    """
    folders = {}
    for path in map(Path, paths):
        for folder in _find(path):
            folders.setdefault(folder.resolve(), folder)
    rows = [row for folder in folders.values() for row in _rows(folder)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in WHOLE:
        frame[column] = frame[column].astype("Int64")
    numbers = ("gflops", *PERCENT, "clips_per_s", "gpu_hours")
    return frame.astype(dict.fromkeys(numbers, "float64"))


def write_report(frame: pd.DataFrame, out: Path) -> Path:
    """Write results.csv, results.md and results.html to a folder; return the last one's path.

    The csv holds the table as it is; the other two show it for reading, the html with curves.
    """
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "results.csv", index=False)
    (table, shared), runs = readable(frame), frame["run"].tolist()
    notes = _notes(runs)
    text = "\n".join([markdown(table, shared), *(f"{note}\n" for note in notes)])
    (out / "results.md").write_text(text, encoding="utf-8")
    curves = {run: (_read(run, "metrics.csv"), _read(run, "steps.csv")) for run in runs}
    tests = {run: _tests(Run(Path(run))) for run in runs}
    target = out / "results.html"
    target.write_text(page(table, shared, notes, runs, curves, tests), encoding="utf-8")
    return target


def _notes(runs: Iterable[str]) -> list[str]:
    """Return what the recipes of the runs tell their readers, each note once."""
    notes = {}
    for run in runs:
        with contextlib.suppress(ConfigError):  # its row says what is wrong
            notes[Run(Path(run)).config().note] = None
    return [note for note in notes if note]


def _find(path: Path) -> list[Path]:
    """Return the runs at or below a path, or the path itself if there is none."""
    begun, submitted = [], []
    for folder, inner, files in os.walk(path):
        if "config.yaml" in files:
            begun.append(Path(folder))
            inner.clear()
        elif "job" in inner:
            submitted.append(Path(folder))
        inner[:] = sorted(set(inner) - {"job"})
    found = begun + submitted
    waiting = [  # the folder of a sweep has jobs too, but runs lie below it
        folder for folder in submitted if not any(folder in other.parents for other in found)
    ]
    return sorted(begun + waiting) or [path]


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        return _rows_of(Run(folder), {"run": str(folder)})
    except (ValueError, TypeError, KeyError, OSError) as error:  # files of any content
        return [{"run": str(folder), "state": f"broken: {_first_line(error)}"}]


def _rows_of(run: Run, row: dict[str, Any]) -> list[dict[str, Any]]:
    if not run.exists() and not run.job.is_dir():
        return [{**row, "state": "missing: no run here"}]
    if not run.exists():
        return [{**row, **_submitted(run), "state": "waiting"}]
    config = run.config()
    row |= _settings(config) | _progress(run, config)
    tests = _tests(run)
    if not tests:
        params, gflops = _size(config)
        return [_compared(config, {**row, "params": params, "gflops": gflops})]
    nothing = dict.fromkeys(TEST_METRICS)  # the metrics of a test are never those of the training
    return [_compared(config, {**row, **nothing, **_tested(folder)}) for folder in tests]


def _submitted(run: Run) -> dict[str, Any]:
    """Return the settings that a run waits with, if it says any."""
    path = run.recipe
    return _settings(parse(Config, read_yaml(path), str(path))) if path.exists() else {}


def _settings(config: Config) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "dataset": Path(config.data.dataset).name,
        "temporal": config.model.temporal,
        "arch": config.model.arch,
        "num_segments": config.clip.num_segments,
        "views": f"{config.test.clips}x{config.test.crops}",
        "crop": config.test_crop,
        "pretrained": Path(config.model.init).name,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "global_batch": config.train.batch,
        "published": config.published,
    }


def _progress(run: Run, config: Config) -> dict[str, Any]:
    metrics, steps = _read(run.path, "metrics.csv"), _read(run.path, "steps.csv")
    environments = [_read_json(run.path / f"environment-{n:02d}.json") for n in run.attempts()]
    times = steps["time"].dropna().tolist() if "time" in steps else []
    split = metrics.get("split", pd.Series(dtype=str))
    trained = metrics[split == config.data.train_split]
    speed = trained if trained.get("clips_per_s", pd.Series()).notna().any() else steps
    return {
        **_best(metrics[split == config.data.test_split]),
        "clips_per_s": speed["clips_per_s"].median() if "clips_per_s" in speed else math.nan,
        "data_wait": speed["data_wait"].mean() if "data_wait" in speed else math.nan,
        "gpu_hours": _gpu_hours(run, environments, times),
        "restarts": max(len(environments) - 1, 0),
        "state": _state(run, environments, times),
        "commit": environments[-1].get("commit", "") if environments else "",
    }


def _best(measured: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of the best epoch: by top-1, or by mAP where there is no top-1."""
    for name in ("top1", "map_class"):
        if name in measured and measured[name].notna().any():
            best = measured.loc[measured[name].idxmax()]
            known = {metric: best[metric] for metric in TEST_METRICS if metric in measured}
            return {**known, "best_epoch": int(best["epoch"]) + 1}
    return {}


def _gpu_hours(run: Run, environments: list[dict[str, Any]], times: list[float]) -> float:
    """Sum hours x GPUs of all attempts: as Slurm counted them, else as far as they left a word."""
    counted = _read_json(run.job / "executions.json").get("executions", [])  # by launch.slurm_query
    seconds = sum(_number(one.get("elapsed_s")) * _number(one.get("gpus")) for one in counted)
    if seconds > 0:  # a Slurm that does not count GPUs says 0
        return seconds / 3600
    starts = [_number(environment.get("started")) for environment in environments]
    hours = 0.0
    followings = [*starts, math.inf][1:]
    for environment, start, following in zip(environments, starts, followings, strict=True):
        ended = _number(environment.get("ended"))
        if math.isnan(ended):
            ended = max((t for t in times if start <= t < following), default=start)
        gpus = _number(environment.get("world_size"))
        on_gpu = str(environment.get("device", "")).startswith("cuda")
        hours += (ended - start) / 3600 * gpus if on_gpu else 0.0 * gpus
    return hours if environments else math.nan


def _state(run: Run, environments: list[dict[str, Any]], times: list[float]) -> str:
    if "train" in run.done():
        return "done"
    if not environments:
        return "imported" if checkpoint.best(run) else "waiting"
    if "ended" in environments[-1]:
        return "stopped"
    words = [_number(environments[-1].get("started")), *times]
    silent_s = time.time() - np.nanmax(words, initial=0.0)
    return "running" if silent_s < 60 * SILENT_MINUTES else "lost"


def _tested(folder: Path) -> dict[str, Any]:
    """Return what a test says; of one that did not end, what its name says."""
    _, views, crop = [*folder.name.rsplit("-", 2), "", ""][:3]
    named = {"views": views, "crop": int(crop) if crop.isdigit() else None}
    try:
        result = load_result(folder)
    except ScoresError as error:
        ended = (folder / "result.json").exists()
        return {**named, "state": f"broken: {error}" if ended else "test did not end"}
    measures = result.get("metrics")
    found = {
        name: _number(measures.get(name) if isinstance(measures, dict) else None)
        for name in TEST_METRICS
    }
    sizes = {name: _number(result.get(name)) for name in ("params", "gflops")}
    dataset = {"dataset": str(result["dataset"])} if result.get("dataset") else {}
    return {**named, **found, **sizes, **dataset}


def _compared(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    value = row.get(config.published_metric)
    if config.published is not None and value is not None:
        row["delta"] = value - config.published
    return row


def _size(config: Config) -> tuple[float, float]:
    """Return parameters and 10^9 multiply-adds of an untested run's model, NaN if unknown."""
    try:
        classes = read_info(dataset_path(config.data.dataset)).classes
        sizes = Config(clip=config.clip, model=config.model, test=config.test)
        return _count(sizes, len(classes))
    except (ValueError, RuntimeError) as error:  # the dataset is elsewhere, say
        log.info("size of the model unknown: %s", error)
        return math.nan, math.nan


@functools.lru_cache  # the runs of a sweep have one model
def _count(config: Config, num_classes: int) -> tuple[float, float]:
    with FakeTensorMode():
        return count(build_model(config, num_classes), config)


def _read(run: str | Path, name: str) -> pd.DataFrame:
    """Return metrics.csv or steps.csv; empty where there is none, broken rows left out."""
    try:
        frame = pd.read_csv(Path(run) / name, on_bad_lines="skip", encoding_errors="replace")
    except (OSError, ValueError):
        return pd.DataFrame(columns=["epoch", "step"])
    numbers = frame.drop(columns="split", errors="ignore").apply(pd.to_numeric, errors="coerce")
    frame[numbers.columns] = numbers
    return frame.dropna(subset=[name for name in ("epoch", "step") if name in frame])


def _tests(run: Run) -> list[Path]:
    """Return the folders of a run's tests, the oldest first."""
    folders = [folder for folder in run.tests.glob("*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _number(value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known else math.nan
