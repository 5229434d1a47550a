"""One table of many runs and their tests, as a DataFrame."""

import functools
import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.files import write_text
from configs.load import dataset_path, parse, read_yaml
from configs.progress import show_progress
from configs.schema import Config
from preprocess.csv_files import harmless
from preprocess.shards import read_info
from tin.evaluation.description import parsed_name
from tin.evaluation.scores import RESULT, ScoresError, load_result
from tin.models.network import build_model
from tin.models.size import count
from tin.reports.attempts import gpu_hours, number, read_environments, read_json, state_of
from tin.reports.contents import collect, notes, read_tests, slow_rank_notes
from tin.reports.folds import fold_sentences, fold_table
from tin.reports.goodput import goodput
from tin.reports.intervals import intervals_of
from tin.reports.page import page
from tin.reports.recorded import config_of, find_runs, read_curves, tests_of
from tin.reports.seeds import readable_seeds, seed_groups, seed_table
from tin.reports.tables import PERCENT, TEST_METRICS, ReportState, latex, markdown, readable
from tin.runs.folder import Run
from tin.training.early_stop import EARLY_STOP

log = logging.getLogger(__name__)

COLUMNS = (
    "run recipe dataset temporal arch num_segments views crop average pretrained seed epochs"
    " global_batch params gflops top1 top1_low top1_high top5 top5_low top5_high mean_class"
    " mean_class_low mean_class_high map_class map_class_low map_class_high map_sample"
    " map_sample_low map_sample_high best_epoch published delta clips_per_s data_wait gpu_hours"
    " goodput restarts state commit test"
).split()
LARGEST_INTEGER = 2**63 - 1
"""Largest integer that a table can hold."""
INTEGERS = "num_segments crop seed epochs global_batch params best_epoch restarts".split()


def load_runs(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return a table of runs with one row for each test, or one for a run without a test.

    Accuracies are fractions, not percent. ``top1_low`` and ``top1_high`` are the ends of the 95 %
    interval of ``top1``, and so on; they are NaN without a test. ``average`` says what is averaged
    over the views of a video, and ``test`` is the name of the test.
    ``clips_per_s`` and ``data_wait`` are those of training, ``best_epoch`` counts from 1, and
    ``gflops`` are 10^9 multiply-adds of one view. ``gpu_hours`` sums all attempts; an attempt that
    was killed counts up to the last step that it recorded. ``goodput`` is the share of the hours of
    all attempts that went into steps which still count (see `tin.reports.goodput`). A run without a
    test shows the metrics measured after its best epoch. Runs come in natural order.

    Args:
        paths: run folders, or folders that hold runs at any depth. A path without a run gets a row,
            and so does a run that is queued, running, lost or unreadable; ``state`` tells which.
    """
    run_dirs = list(find_runs(paths))
    shown = show_progress(run_dirs, len(run_dirs), "read runs")
    rows = [row for run_dir in shown for row in _rows(run_dir)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in INTEGERS:
        frame[column] = frame[column].astype("Int64")
    ends = [f"{metric}_{end}" for metric in TEST_METRICS for end in ("low", "high")]
    percent = [name for name in PERCENT if name in frame]
    numbers = ("gflops", *percent, *ends, "clips_per_s", "gpu_hours")
    return frame.astype(dict.fromkeys(numbers, "float64"))


def write_report(frame: pd.DataFrame, out: Path, detail: Sequence[Path] = ()) -> Path:
    """Write results.csv, .md, .tex and .html to a folder; return the path of the page.

    The CSV file holds the table as it is. The others hold it for reading, with the means over
    seeds, and the page adds curves, tests and classes. results_seeds.csv holds the means where
    there are runs that differ in nothing but the seed, and results_folds.csv those over folds.

    Args:
        frame: the table of `load_runs`.
        out: folder of the files.
        detail: runs whose details are on the page; none for the eight best ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results.csv", _for_people(frame).to_csv(index=False))
    tests, problems = read_tests(frame)
    groups = seed_groups(frame, tests)
    seeds = seed_table(frame, groups)
    if len(seeds):
        write_text(out / "results_seeds.csv", _for_people(seeds).to_csv(index=False))
        seeds = readable_seeds(seeds)
    folds = fold_table(frame, tests)
    sentences = fold_sentences(folds)
    if len(folds):
        write_text(out / "results_folds.csv", folds.to_csv(index=False))
        for sentence in sentences:
            log.info("%s", sentence)
    table, shared = readable(frame)
    run_dirs = frame["run"].unique().tolist()
    remarks = [*sentences, *slow_rank_notes(run_dirs), *notes(run_dirs)]
    text = "\n".join([markdown(table, shared, seeds), *(f"{note}\n" for note in remarks)])
    write_text(out / "results.md", text)
    write_text(out / "results.tex", latex(table, shared, seeds))
    target = out / "results.html"
    contents = collect(frame, groups, seeds, tests, problems, detail)
    write_text(target, page(replace(contents, notes=remarks)))
    return target


def _for_people(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts are no formulas for a spreadsheet."""
    return frame.map(lambda cell: harmless(cell) if isinstance(cell, str) else cell)


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of a run; one whose files cannot be used gets a row with the reason."""
    try:
        rows = _rows_of(Run(run_dir), {"run": str(run_dir)})
        for row, name in itertools.product(rows, INTEGERS):
            _check_integer(row.get(name), name)
        return [{name: _utf8(cell) for name, cell in row.items()} for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [{"run": str(run_dir), "state": _utf8(_with_reason("broken", reason))}]


def _check_integer(value: Any, name: str) -> None:
    """Raise ValueError if a cell is a number that no column of integers can hold."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return
    if value % 1 or abs(value) > LARGEST_INTEGER:
        raise ValueError(f"{name} is {value}, expected an integer of at most {LARGEST_INTEGER}")


def _utf8(cell: Any) -> Any:
    """Return a cell in which bytes of file names that are not UTF-8 are written as \\udc88."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _rows_of(run: Run, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each test, or one row if there is none; each starts as ``row``."""
    if not run.exists() and not run.job.is_dir():
        return [{**row, "state": _with_reason("missing", "no run here")}]
    if not run.exists():
        queued: ReportState = "waiting"
        return [{**row, **_submitted(run), "state": queued}]
    config = config_of(run)
    row |= _settings(config) | _progress(run, config)
    tests = tests_of(run)
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
        "average": config.test.average,
        "pretrained": Path(config.model.init).name,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "global_batch": config.train.batch,
        "published": config.published,
    }


def _progress(run: Run, config: Config) -> dict[str, Any]:
    """Return what training recorded: the best epoch, speed, GPU-hours, state and commit."""
    metrics, steps = read_curves(run.path)
    environments = read_environments(run)
    times = steps["time"].dropna().tolist() if "time" in steps else []
    split = metrics.get("split", pd.Series("", metrics.index))

    # The speed comes from the epochs if they recorded one, otherwise from the steps.
    trained = metrics[split == config.data.train_split]
    speed = trained if trained.get("clips_per_s", pd.Series()).notna().any() else steps
    return {
        **_best(metrics[split == config.data.test_split]),
        "clips_per_s": speed["clips_per_s"].median() if "clips_per_s" in speed else math.nan,
        "data_wait": speed["data_wait"].mean() if "data_wait" in speed else math.nan,
        "gpu_hours": gpu_hours(run, environments, times),
        "goodput": goodput(run, environments, steps, config.train.batch),
        "restarts": max(len(environments) - 1, 0),
        "state": _state(run, environments, times),
        "commit": environments[-1].get("commit", "") if environments else "",
    }


def _state(run: Run, environments: list[dict[str, Any]], times: list[float]) -> str:
    """Return where a run is, and of one that stopped early, after which epoch."""
    state = state_of(run, environments, times)
    early = read_json(run.path / EARLY_STOP)
    if state != "done" or not early:
        return state
    return _with_reason(
        state,
        f"early stop after epoch {early.get('epoch')}, because the {early.get('watched')} was best"
        f" after epoch {early.get('best_epoch')} (train.patience={early.get('patience')})",
    )


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
    parsed = parsed_name(folder.name)
    named = {
        "views": parsed.views if parsed else "",
        "crop": parsed.crop if parsed else None,
        "test": folder.name,
    }
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
    try:
        for name, (low, high) in intervals_of(folder, result).items():
            if not math.isnan(found.get(name, math.nan)):
                found |= {f"{name}_low": low, f"{name}_high": high}
    except ScoresError as error:  # the page names it beside the test
        log.info("%s has no intervals: %s", folder, error)
    sizes = {name: number(result.get(name)) for name in ("params", "gflops")}
    dataset = {"dataset": str(result["dataset"])} if result.get("dataset") else {}
    average = str(result.get("average", "scores"))  # version 0.1 averaged scores
    return {**named, **found, **sizes, **dataset, "average": average}


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
