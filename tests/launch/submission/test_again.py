"""Submitting again: the settings, the cluster and the runs that are meant."""

from pathlib import Path

import pytest

from configs.cluster import Cluster
from configs.load import ConfigError, dump, load
from launch.record import End, SubmittedJob, add_end, add_job
from launch.submission import again
from tin.runs.folder import Run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep of two runs, of which the second one was given up."""
    folder = tmp_path / "sweep"
    for name, kind in (("seed-0", "done"), ("seed-1", "gave up")):
        run = Run(folder / name)
        run.job.mkdir(parents=True)
        run.recipe.write_text(dump(load(None, [f"train.seed={name[-1]}"])))
        add_job(run.path, SubmittedJob("1", "train", "local", "/logs"))
        add_end(run.path, End("1", 0, "train", kind))
    (folder / "job").mkdir()
    (folder / "job" / "cluster.yaml").write_text(dump(Cluster(executor="local", nodes=1)))
    return folder


def test_all_runs_or_the_failed_ones_get_their_own_settings(sweep: Path):
    found = again.configs(sweep, [], failed=False)
    assert {path.name: config.train.seed for path, config in found.items()} == {
        "seed-0": 0,
        "seed-1": 1,
    }
    failed = again.configs(sweep, ["run.log_steps=7"], failed=True)
    assert [(path.name, config.run.log_steps) for path, config in failed.items()] == [("seed-1", 7)]


def test_a_single_run_is_submitted_again(sweep: Path):
    assert list(again.configs(sweep / "seed-1", [], failed=False)) == [sweep / "seed-1"]


def test_the_cluster_is_kept_and_its_resources_can_change(sweep: Path):
    assert again.cluster(sweep, ["mem_gb=40"]) == Cluster(executor="local", nodes=1, mem_gb=40)


def test_a_folder_that_was_never_submitted_is_rejected(sweep: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="name its recipe"):
        again.configs(tmp_path / "new", [], failed=False)
    with pytest.raises(ConfigError, match="name a cluster file with --cluster"):
        again.cluster(tmp_path / "new", [])
    with pytest.raises(ConfigError, match="no run has failed"):
        again.configs(sweep / "seed-0", [], failed=True)
