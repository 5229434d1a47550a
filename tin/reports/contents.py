"""Collects what the page shows of the runs of a table: rows, curves, classes and details."""

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import TinError
from configs.load import ConfigError, leaves
from tin.evaluation.description import parsed_name
from tin.evaluation.scores import SCORES, ScoresError
from tin.reports.attempts import read_environments
from tin.reports.classes import class_values
from tin.reports.comparisons import test_sets
from tin.reports.curves import run_curves
from tin.reports.details import details_of
from tin.reports.measured import Measured, measure
from tin.reports.page import Contents
from tin.reports.recorded import config_of, read_curves, tests_of
from tin.reports.seeds import (
    SeedGroup,
    differing,
    test_folder,
)
from tin.reports.tables import TEST_METRICS, kind_of, readable
from tin.runs.folder import Run
from tin.runs.rank_notes import slow_ever

NUM_DETAILED = 8
REASONS = {
    "done": "finished, but not tested; run `tin test {run}`",
    "running": "training",
    "stopped": "stopped; resume with `tin train --run {run}`",
    "lost": "no step for 30 minutes and no end; resume with `tin train --run {run}`",
    "waiting": "queued, or never started",
    "imported": "imported weights without a test; run `tin test {run}`",
    "missing": "there is no run in this folder",
    "test did not end": "a test started but wrote no result; run `tin test {run}` again",
}
"""Why a run of a state has no result."""


def read_tests(frame: pd.DataFrame) -> tuple[dict[str, Measured], dict[str, list[str]]]:
    """Return the tests of a table of runs by folder, and what is wrong with others by run."""
    found: dict[str, Measured] = {}
    problems: dict[str, list[str]] = {}
    for run_dir, test in zip(frame["run"], frame["test"], strict=True):
        folder = test_folder(run_dir, test)
        if not folder or not _has_result(frame, run_dir, test):
            continue
        try:
            measured = measure(Path(folder))
        except ScoresError as error:
            problems.setdefault(run_dir, []).append(str(error))
            continue
        if len(measured.predicted):
            found[folder] = measured
    return found, problems


def collect(
    frame: pd.DataFrame,
    groups: Sequence[SeedGroup],
    seeds: pd.DataFrame,
    tests: Mapping[str, Measured],
    problems: Mapping[str, list[str]],
    detail: Sequence[Path],
) -> Contents:
    """Return the contents of the page.

    Args:
        frame: the table of `load_runs`.
        groups: its tested rows, grouped by seeds.
        seeds: texts of their means.
        tests: its tests by folder.
        problems: what is wrong with other tests, by run.
        detail: runs whose details are shown; none for the best ones.
    """
    table, shared = readable(frame)
    run_dirs = list(dict.fromkeys(frame["run"]))
    index = {run_dir: place for place, run_dir in enumerate(run_dirs)}
    row_runs = [index[run_dir] for run_dir in frame["run"]]
    names = dict(zip(row_runs, table["run"], strict=True))
    newest = {run_dir: _newest(run_dir, tests) for run_dir in run_dirs}
    settings = [_settings(run_dir) for run_dir in run_dirs]
    different = differing([one for one in settings if one])
    class_sets, classes = _classes([newest[run_dir] for run_dir in run_dirs])
    runs = [
        {
            "name": names[place],
            "split": _split(run_dir),
            "curves": _curves(run_dir, len(run_dirs)),
            "classes": classes[place],
            "settings": {name: str(settings[place].get(name, "")) for name in different},
            "commands": _commands(run_dir) if settings[place] else "",
        }
        for place, run_dir in enumerate(run_dirs)
    ]
    is_tested = frame[list(TEST_METRICS)].notna().any(axis=1) & frame["test"].notna()
    readable_runs = [run_dir for run_dir, one in zip(run_dirs, settings, strict=True) if one]
    chosen = _chosen(frame, readable_runs, tests, detail)
    return Contents(
        table=_without_empty(table[is_tested.to_numpy()]),
        table_runs=[run for run, tested in zip(row_runs, is_tested, strict=True) if tested],
        untested=_untested(frame, table, is_tested),
        untested_runs=[run for run, tested in zip(row_runs, is_tested, strict=True) if not tested],
        shared=shared,
        notes=notes(run_dirs),
        seeds=seeds,
        test_sets=test_sets(groups),
        runs=runs,
        class_sets=class_sets,
        settings=different,
        selected=[index[run_dir] for run_dir in chosen],
        details={
            index[run_dir]: details_of(Path(run_dir), newest[run_dir], problems.get(run_dir, []))
            for run_dir in chosen
        },
    )


def notes(run_dirs: Sequence[str]) -> list[str]:
    """Return the notes for readers in the recipes of the runs, each note once."""
    found: dict[str, None] = {}
    for run_dir in run_dirs:
        with contextlib.suppress(ConfigError):  # the run's row reports the error
            found[config_of(Run(Path(run_dir))).note] = None
    return [note for note in found if note]


def slow_rank_notes(run_dirs: Sequence[str]) -> list[str]:
    """Return a note for each run in which ranks were slow; it names them and their nodes."""
    found = [(run_dir, slow_ever(Path(run_dir))) for run_dir in run_dirs]
    return [f"{run_dir}: ranks were {slow}" for run_dir, slow in found if slow]


def _has_result(frame: pd.DataFrame, run_dir: str, test: str) -> bool:
    return (Run(Path(run_dir)).tests / test / SCORES).exists()


def _newest(run_dir: str, tests: Mapping[str, Measured]) -> Measured | None:
    """Return the newest test of a run that can be read."""
    with contextlib.suppress(OSError):
        for folder in reversed(tests_of(Run(Path(run_dir)))):
            if str(folder) in tests:
                return tests[str(folder)]
    return None


def _settings(run_dir: str) -> dict[str, Any]:
    try:
        return dict(leaves(config_of(Run(Path(run_dir))).model_dump(mode="json")))
    except (TinError, OSError, ValueError):
        return {}


def _split(run_dir: str) -> str:
    try:
        return config_of(Run(Path(run_dir))).data.test_split
    except (TinError, OSError, ValueError):
        return ""


def _curves(run_dir: str, num_runs: int) -> dict[str, Any]:
    run = Run(Path(run_dir))
    metrics, steps = read_curves(run.path)
    return run_curves(metrics, steps, _environments(run), num_runs)


def _environments(run: Run) -> list[dict[str, Any]]:
    try:
        return read_environments(run)
    except ValueError:  # the run's row reports the damaged folder
        return []


def _classes(
    newest: Sequence[Measured | None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any] | None]]:
    """Return the different sets of classes and videos, and the values of each run by class."""
    sets: dict[tuple, int] = {}
    known: list[dict[str, Any]] = []
    found: list[dict[str, Any] | None] = []
    for test in newest:
        if test is None:
            found.append(None)
            continue
        key = (test.classes, test.class_videos.tobytes())
        if key not in sets:
            sets[key] = len(known)
            known.append({"names": list(test.classes), "videos": test.class_videos.tolist()})
        found.append({"set": sets[key], "values": class_values(test)})
    return known, found


def _commands(run_dir: str) -> str:
    """Return the commands that repeat a run in a new folder, one a line."""
    run = Run(Path(run_dir))
    if not run.exists():
        return ""
    again = shlex.quote(f"{run_dir}-again")
    lines = [f"tin train {shlex.quote(str(run.path / 'config.yaml'))} --run {again}"]
    with contextlib.suppress(OSError):
        for folder in tests_of(run):
            name = parsed_name(folder.name)
            if name:
                options = "".join(f" test.{option}" for option in name.options)
                lines.append(
                    f"tin test {again} --views {name.views} --crop {name.crop}"
                    f" data.test_split={name.split}{options}"
                )
    commits = [one.get("commit") for one in _environments(run)]
    if commits and commits[-1]:
        lines.insert(0, f"git checkout {shlex.quote(str(commits[-1]))}")
    return "\n".join(lines)


def _untested(frame: pd.DataFrame, table: pd.DataFrame, is_tested: pd.Series) -> pd.DataFrame:
    """Return run, state and reason of each row without a result, in one line each."""
    rows = []
    for place in np.flatnonzero(~is_tested.to_numpy()).tolist():
        run_dir = frame["run"].iloc[place]
        state = str(frame["state"].iloc[place])
        kind, _, reason = state.partition(": ")
        why = reason or REASONS.get(kind_of(state), "").format(run=run_dir)
        if kind == "done" and reason:  # an early stop is no problem, so the advice stays
            why = f"{reason}; {REASONS['done'].format(run=run_dir)}"
        best = [
            f"{metric} {100 * frame[metric].iloc[place]:.2f} %"
            for metric in TEST_METRICS
            if not pd.isna(frame[metric].iloc[place])
        ]
        epoch = frame["best_epoch"].iloc[place]
        if best and not pd.isna(epoch):
            why += f"; best epoch {epoch}: {', '.join(best)}"
        rows.append((table["run"].iloc[place], kind, why))
    return pd.DataFrame(rows, columns=["run", "state", "why"])


def _chosen(
    frame: pd.DataFrame,
    run_dirs: Sequence[str],
    tests: Mapping[str, Measured],
    detail: Sequence[Path],
) -> list[str]:
    """Return the runs whose details are shown: the named ones, or else the best ones."""
    if detail:
        named = {path.resolve() for path in detail}
        return [run_dir for run_dir in run_dirs if Path(run_dir).resolve() in named]
    scores: dict[str, float] = {}
    for run_dir, test in zip(frame["run"], frame["test"], strict=True):
        measured = tests.get(test_folder(run_dir, test))
        if measured is not None:
            score = float(measured.values[measured.metric].mean())
            scores[run_dir] = max(score, scores.get(run_dir, 0.0))
    tested = sorted(scores, key=lambda run_dir: -scores[run_dir])
    others = [run_dir for run_dir in run_dirs if run_dir not in scores]
    best = set([*tested, *others][:NUM_DETAILED])
    return [run_dir for run_dir in run_dirs if run_dir in best]


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without the columns that only other rows fill."""
    filled = [
        name for name in table.columns if (table[name] != "").any() or name in ("run", "state")
    ]
    return table[filled] if len(table) else table
