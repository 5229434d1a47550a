"""Which folders are runs: named ones, those that match a pattern, and all below a folder."""

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.load import ConfigError, run_path

INSIDE_RUNS = ("job", "checkpoints", "tests", "tensorboard", "report")
"""Folders of a run that hold no other runs."""
log = logging.getLogger(__name__)


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Return the runs among `paths` and the folders directly in them.

    Raises:
        ConfigError: a path holds no run.
    """
    found: list[Path] = []
    for path in _matching(map(run_path, paths)):
        inside = sorted(folder for folder in path.glob("*") if _is_readable_run(folder))
        if not inside and not is_run(path):
            raise ConfigError(f"{path}: no run found here; expected a run or a folder of runs")
        # The folder of a sweep has jobs of its own: shard, merge and report.
        found += [path, *inside] if is_run(path) else inside
    return list(dict.fromkeys(found))


def all_runs(folder: Path) -> list[Path]:
    """Return the runs at any depth below a folder, without looking into the files of runs."""
    found = []
    for parent, names, _ in os.walk(folder):
        path = Path(parent)
        if is_run(path):
            found.append(path)
            names[:] = [name for name in names if name not in INSIDE_RUNS]
        names[:] = sorted(name for name in names if not name.startswith("."))
    return found


def _matching(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths, and instead of a pattern such as `grid/*` the runs that match it."""
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            yield path
            continue
        root = Path(path.absolute().anchor)
        pattern = str(path.absolute().relative_to(root))
        matches = [folder for folder in sorted(root.glob(pattern)) if _is_readable_run(folder)]
        if not matches:
            raise ConfigError(f"{path}: no run matches this pattern")
        yield from matches


def _is_readable_run(folder: Path) -> bool:
    """Return whether a folder is a run; warn of one that another user keeps private."""
    try:
        return is_run(folder)
    except PermissionError as error:
        log.warning("%s is left out: %s", folder, error.strerror)
        return False


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run, or the folder of a sweep with jobs of its own."""
    return (folder / "config.yaml").exists() or (folder / "job" / "jobs.jsonl").exists()
