"""Submitting runs again, with the settings and the cluster that they were submitted with."""

from collections.abc import Sequence
from pathlib import Path

from configs.cluster import Cluster, load_submitted_cluster
from configs.load import ConfigError, parse, read_yaml, with_settings
from configs.schema import Config
from launch.find import is_run
from launch.status import statuses
from tin.runs.folder import Run

COMPLETE = ("done", "running", "pending", "configuring", "completing")
"""States of runs that `--failed` leaves alone."""


def cluster(folder: Path, settings: Sequence[str]) -> Cluster:
    """Return the cluster settings of a run or a sweep, with `key=value` words applied.

    Raises:
        ConfigError: the folder was never submitted, or a setting is wrong.
    """
    path = Run(folder).job / "cluster.yaml"
    if not path.exists():
        raise ConfigError(f"{folder} was not submitted before: name a cluster file with --cluster")
    found = load_submitted_cluster(path)
    values = with_settings(found.model_dump(mode="json"), settings)
    return parse(Cluster, values, str(path))


def configs(folder: Path, settings: Sequence[str], *, failed: bool) -> dict[Path, Config]:
    """Return the settings of a run, or of the runs of a sweep, with `settings` applied.

    Args:
        folder: folder of the run or of the sweep.
        settings: `section.key=value` words.
        failed: leave out the runs that are complete, queued or running.

    Raises:
        ConfigError: no run was submitted here, or none has failed.
    """
    inside = sorted(path for path in folder.glob("*") if is_run(path) and Run(path).recipe.exists())
    run_dirs = inside or ([folder] if Run(folder).recipe.exists() else [])
    if not run_dirs:
        raise ConfigError(f"{folder} was not submitted before: name its recipe")
    if failed:
        found, problem = statuses(run_dirs)
        if problem:
            raise ConfigError(f"which runs have failed is not known: {problem}")
        run_dirs = [status.run_dir for status in found if status.state not in COMPLETE]
        if not run_dirs:
            raise ConfigError(f"{folder}: no run has failed")
    return {run_dir: _config(run_dir, settings) for run_dir in run_dirs}


def _config(run_dir: Path, settings: Sequence[str]) -> Config:
    path = Run(run_dir).recipe
    return parse(Config, with_settings(read_yaml(path), settings), str(path))
