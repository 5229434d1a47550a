"""What runs have recorded: their folders, settings, curves and tests, each file read once."""

import functools
import logging
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from configs.schema import Config
from configs.small_files import open_regular
from tin.runs.folder import OFFSETS_FILE, Run

log = logging.getLogger(__name__)
MAX_CACHED = 4096
TEXTS = ("split", "block")
"""Columns of CSV files that hold text; all others hold numbers."""


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Return the run folders at or below paths, each once; runs of a path come in natural order.

    A path without a run stands for itself. A run whose name cannot be shown is left out and named.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        for run_dir in _find(path):
            found.setdefault(run_dir.resolve(), run_dir)
    return list(found.values())


def natural(text: str) -> tuple[list[Any], str]:
    """Return a key that sorts texts with numbers by their value.

    run-2 comes before run-10, and lr-0.02 before lr-0.1.
    """
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", text)
    # Texts and numbers take turns, so a text is never compared with a number.
    return [float(part) if place % 2 else part.casefold() for place, part in enumerate(parts)], text


def config_of(run: Run) -> Config:
    """Return the settings of a run.

    Raises:
        ConfigError: the folder has no config.yaml, or it is not valid.
    """
    return _config(run.path, _version(run.path / "config.yaml"))


def read_curves(run_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return metrics.csv and steps.csv of a run."""
    return read_csv(run_dir / "metrics.csv"), read_csv(run_dir / "steps.csv")


def read_offsets(run_dir: Path) -> pd.DataFrame:
    """Return offsets.csv of a run: step, block, and the mean offsets and gains of the block."""
    return read_csv(run_dir / OFFSETS_FILE)


def read_csv(path: Path) -> pd.DataFrame:
    """Return the valid rows of a CSV file; none if the file is missing or damaged.

    An infinite value counts as a missing one.
    """
    return _csv(path, _version(path)).copy()


def tests_of(run: Run) -> list[Path]:
    """Return the folders of a run's tests, oldest first.

    A folder whose name cannot be shown, for example because it is not UTF-8, is left out and named.
    """
    folders = _with_names([folder for folder in run.tests.glob("*") if folder.is_dir()])
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))


def _with_names(folders: list[Path]) -> list[Path]:
    """Return the folders whose names can be shown; the others are named in a warning."""
    shown = [folder for folder in folders if folder.name.isprintable()]
    for folder in set(folders) - set(shown):
        _warn_of(folder)
    return shown


@functools.lru_cache(MAX_CACHED)
def _warn_of(folder: Path) -> None:
    """Say once that a folder is left out."""
    log.warning("%a is left out; rename the folder to see it", str(folder))


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
    parents = {parent for folder in found for parent in folder.parents}
    queued = [folder for folder in submitted if folder not in parents]
    named = _with_names(started + queued)
    return sorted(named, key=lambda folder: natural(str(folder))) or [path]


def _version(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again; zeros if there is no file."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size


@functools.lru_cache(MAX_CACHED)
def _config(run_dir: Path, version: tuple[int, int]) -> Config:
    return Run(run_dir).config()


@functools.lru_cache(MAX_CACHED)
def _csv(path: Path, version: tuple[int, int]) -> pd.DataFrame:
    try:
        with open_regular(path) as file:
            frame = pd.read_csv(
                file, index_col=False, on_bad_lines="skip", encoding_errors="replace"
            )
    except (OSError, ValueError):
        return pd.DataFrame(columns=["epoch", "step"])
    for name in frame.columns:
        if name not in TEXTS and not pd.api.types.is_numeric_dtype(frame[name].dtype):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame = frame.replace([math.inf, -math.inf], math.nan)
    return frame.dropna(subset=[name for name in ("epoch", "step") if name in frame])
