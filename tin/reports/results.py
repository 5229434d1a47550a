"""One table of many runs, as a DataFrame, CSV, Markdown and a page of HTML."""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.files import write_text
from configs.load import ConfigError, dataset_path, parse, read_yaml
from configs.schema import Config
from preprocess.shards import read_info
from tin.evaluation.scores import RESULT, ScoresError, load_result
from tin.models.network import build_model
from tin.models.size import count
from tin.reports.attempts import gpu_hours, number, read_environments, state_of
from tin.reports.page import page
from tin.reports.tables import PERCENT, ReportState, markdown, readable
from tin.runs.folder import Run

log = logging.getLogger(__name__)

TEST_METRICS = ("top1", "top5", "mean_class", "map_class", "map_sample")
COLUMNS = (
    "run recipe dataset temporal arch num_segments views crop pretrained seed epochs global_batch"
    " params gflops top1 top5 mean_class map_class map_sample best_epoch published delta"
    " clips_per_s data_wait gpu_hours restarts state commit"
).split()
INTEGERS = "num_segments crop seed epochs global_batch params best_epoch restarts".split()


def load_runs(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return a table of runs with one row for each test, or one for a run without a test.

    Accuracies are fractions, not percent. ``clips_per_s`` and ``data_wait`` are those of training,
    ``best_epoch`` counts from 1, and ``gflops`` are 10^9 multiply-adds of one view. ``gpu_hours``
    sums all attempts; an attempt that was killed counts up to the last step that it recorded. A run
    without a test shows the metrics measured after its best epoch.

    Args:
        paths: run folders, or folders that hold runs at any depth. A path without a run gets a row,
            and so does a run that is queued, running, lost or unreadable; ``state`` tells which.
    """
    run_dirs: dict[Path, Path] = {}
    for path in map(Path, paths):
        for run_dir in _find(path):
            run_dirs.setdefault(run_dir.resolve(), run_dir)
    rows = [row for run_dir in run_dirs.values() for row in _rows(run_dir)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in INTEGERS:
        frame[column] = frame[column].astype("Int64")
    numbers = ("gflops", *PERCENT, "clips_per_s", "gpu_hours")
    return frame.astype(dict.fromkeys(numbers, "float64"))


def write_report(frame: pd.DataFrame, out: Path) -> Path:
    """Write results.csv, results.md and results.html to a folder; return the path of the page.

    The CSV file holds the table as it is. The other two files hold it for reading, and the page
    adds curves, tests and classes of each run.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results.csv", frame.to_csv(index=False))
    table, shared = readable(frame)
    run_dirs = frame["run"].tolist()
    notes = _notes(run_dirs)
    text = "\n".join([markdown(table, shared), *(f"{note}\n" for note in notes)])
    write_text(out / "results.md", text)
    curves = {run_dir: _read_curves(Path(run_dir)) for run_dir in run_dirs}
    tests = {run_dir: _tests(Run(Path(run_dir))) for run_dir in run_dirs}
    target = out / "results.html"
    write_text(target, page(table, shared, notes, run_dirs, curves, tests))
    return target


def _notes(run_dirs: Iterable[str]) -> list[str]:
    """Return the notes for readers in the recipes of the runs, each note once."""
    notes: dict[str, None] = {}
    for run_dir in run_dirs:
        with contextlib.suppress(ConfigError):  # the run's row reports the error
            notes[Run(Path(run_dir)).config().note] = None
    return [note for note in notes if note]


def _find(path: Path) -> list[Path]:
    """Return the run folders at or below a path, or the path itself if there are none."""
    # A folder with config.yaml is a run that has started. One with a folder `job` alone was
    # submitted, and is either a run that has not started or the folder of a sweep.
    started = []
    submitted = []
    for folder, inner, files in os.walk(path):
        if "config.yaml" in files:
            started.append(Path(folder))
            inner.clear()
        elif "job" in inner:
            submitted.append(Path(folder))
        inner[:] = sorted(set(inner) - {"job"})

    # The folder of a sweep is not a run: its runs lie below it.
    found = started + submitted
    queued = [folder for folder in submitted if not any(folder in other.parents for other in found)]
    return sorted(started + queued) or [path]


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of a run; one whose files cannot be used gets a row with the reason."""
    try:
        return _rows_of(Run(run_dir), {"run": str(run_dir)})
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [{"run": str(run_dir), "state": _with_reason("broken", reason)}]


def _rows_of(run: Run, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each test, or one row if there is none; each starts as ``row``."""
    if not run.exists() and not run.job.is_dir():
        return [{**row, "state": _with_reason("missing", "no run here")}]
    if not run.exists():
        queued: ReportState = "waiting"
        return [{**row, **_submitted(run), "state": queued}]
    config = run.config()
    row |= _settings(config) | _progress(run, config)
    tests = _tests(run)
    if not tests:
        params, gflops = _size(config)
        return [_compared(config, {**row, "params": params, "gflops": gflops})]
    nothing = dict.fromkeys(TEST_METRICS)  # the metrics of a test are never those of the training
    return [_compared(config, {**row, **nothing, **_tested(folder)}) for folder in tests]


def _with_reason(state: ReportState, reason: object) -> str:
    return f"{state}: {reason}"


def _submitted(run: Run) -> dict[str, Any]:
    """Return the settings that a queued run was submitted with, if it recorded them."""
    path = run.recipe
    return _settings(parse(Config, read_yaml(path), str(path))) if path.exists() else {}


def _settings(config: Config) -> dict[str, Any]:
    """Return the columns that settings fill."""
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
    """Return what training recorded: the best epoch, speed, GPU-hours, state and commit."""
    metrics, steps = _read_curves(run.path)
    environments = read_environments(run)
    times = steps["time"].dropna().tolist() if "time" in steps else []
    split = metrics.get("split", pd.Series(dtype=str))

    # The speed comes from the epochs if they recorded one, otherwise from the steps.
    trained = metrics[split == config.data.train_split]
    speed = trained if trained.get("clips_per_s", pd.Series()).notna().any() else steps
    return {
        **_best(metrics[split == config.data.test_split]),
        "clips_per_s": speed["clips_per_s"].median() if "clips_per_s" in speed else math.nan,
        "data_wait": speed["data_wait"].mean() if "data_wait" in speed else math.nan,
        "gpu_hours": gpu_hours(run, environments, times),
        "restarts": max(len(environments) - 1, 0),
        "state": state_of(run, environments, times),
        "commit": environments[-1].get("commit", "") if environments else "",
    }


def _best(measured: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of the best epoch: by top-1, or by mAP where there is no top-1."""
    for name in ("top1", "map_class"):
        if name in measured and measured[name].notna().any():
            best = measured.iloc[int(measured[name].argmax())]
            known = {metric: best[metric] for metric in TEST_METRICS if metric in measured}
            return {**known, "best_epoch": int(best["epoch"]) + 1}
    return {}


def _tested(folder: Path) -> dict[str, Any]:
    """Return the columns that a test fills; of a test that did not end, those of its name."""
    parts = folder.name.rsplit("-", 2)  # split, clips x crops, pixels
    views = parts[1] if len(parts) > 1 else ""
    crop = parts[2] if len(parts) > 2 else ""
    named = {"views": views, "crop": int(crop) if crop.isdigit() else None}
    try:
        result = load_result(folder)
    except ScoresError as error:
        unfinished: ReportState = "test did not end"
        is_damaged = (folder / RESULT).exists()
        return {**named, "state": _with_reason("broken", error) if is_damaged else unfinished}
    measures = result.get("metrics")
    found = {
        name: number(measures.get(name) if isinstance(measures, dict) else None)
        for name in TEST_METRICS
    }
    sizes = {name: number(result.get(name)) for name in ("params", "gflops")}
    dataset = {"dataset": str(result["dataset"])} if result.get("dataset") else {}
    return {**named, **found, **sizes, **dataset}


def _compared(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its difference from the published value, if both are known."""
    value = row.get(config.published_metric)
    if config.published is not None and value is not None:
        row["delta"] = value - config.published
    return row


def _size(config: Config) -> tuple[float, float]:
    """Return parameters and 10^9 multiply-adds of an untested run's model, NaN if unknown.

    They are unknown for a temporal module of a user's own: a report imports nothing that the
    settings of other people's runs name.
    """
    if ":" in config.model.temporal:
        return math.nan, math.nan
    try:
        classes = read_info(dataset_path(config.data.dataset)).classes
        sizes = Config(clip=config.clip, model=config.model, test=config.test)
        return _count(sizes, len(classes))
    except (ValueError, RuntimeError) as error:  # for example, the dataset is on another machine
        log.info("cannot count the parameters and operations of the model: %s", error)
        return math.nan, math.nan


@functools.lru_cache  # the runs of a sweep share one model
def _count(config: Config, num_classes: int) -> tuple[float, float]:
    with FakeTensorMode():
        return count(build_model(config, num_classes), config)


def _read_curves(run_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return metrics.csv and steps.csv of a run."""
    return _read_csv(run_dir / "metrics.csv"), _read_csv(run_dir / "steps.csv")


def _read_csv(path: Path) -> pd.DataFrame:
    """Return the valid rows of a CSV file; none if the file is missing or damaged."""
    try:
        frame = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace")
    except (OSError, ValueError):
        return pd.DataFrame(columns=["epoch", "step"])
    numbers = frame.drop(columns="split", errors="ignore").apply(pd.to_numeric, errors="coerce")
    frame[numbers.columns] = numbers
    return frame.dropna(subset=[name for name in ("epoch", "step") if name in frame])


def _tests(run: Run) -> list[Path]:
    """Return the folders of a run's tests, oldest first."""
    folders = [folder for folder in run.tests.glob("*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))
