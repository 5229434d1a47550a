"""Submissions that cannot work are rejected at once, with what to do instead."""

import re
from pathlib import Path

import pytest
from cluster_actions import ClusterRun, ask, queue, tin, wait, wait_ended

pytestmark = pytest.mark.cluster
REJECTED = {
    "cluster.partition=gpu": "invalid partition specified: gpu; this cluster has main, low, prod:",
    "cluster.account=nobody": "Invalid account or account/partition combination specified; this",
    "cluster.mem_gb=300": "16000 MB",
    "cluster.constraint=a100": "Invalid feature specification",
    "cluster.gpus_per_node=4": "node configuration is not available; this cluster has main: ",
    "cluster.exclude=node77": "Invalid node name specified; this cluster has node[1-9]: change",
    "cluster.nodes=3": "train.batch 8 is not a multiple of 3 ranks",
    "cluster.partitoin=low": "unknown setting partitoin; did you mean partition?",
}


@pytest.mark.parametrize("setting", REJECTED)
def test_a_job_that_cannot_run_is_rejected_at_once(setting: str, slurm, work: Path):
    run = ClusterRun(work, "rejected")
    assert REJECTED[setting] in run.submit("train", setting, code=2)
    assert REJECTED[setting] in run.submit("train", setting, "--dry-run", code=2)


def test_a_rejected_stage_cancels_the_stages_before_it(slurm: Path, work: Path):
    run = ClusterRun(work, "half")
    told = run.submit("train,test", "cluster.stages={test: {partition: gpu}}", code=2)
    assert "invalid partition" in told
    wait("the end", lambda: not queue("half"))


def test_a_test_without_a_run_is_rejected(slurm: Path, work: Path):
    assert "is not a run yet: submit train,test" in ClusterRun(work, "untrained").submit(
        "test", code=2
    )


def test_a_folder_that_cannot_be_written_is_rejected(slurm: Path, work: Path):
    run = ClusterRun(work, "unwritable")
    run.path = Path("/proc/run")
    assert "/proc/run cannot be written" in run.submit("train", code=2)


def test_a_folder_that_the_nodes_do_not_share_is_explained(slurm: Path, tmp_path: Path, work: Path):
    run = ClusterRun(work, "unshared")
    run.path = tmp_path / "here"
    run.path.mkdir()
    # The nodes' mount namespaces exist already, so the nodes do not see this mount.
    ask("mount", "-t", "tmpfs", "tmpfs", run.path)
    try:
        run.submit("train", "cluster.nodes=1")
        wait_ended(run)
        wait("the reason", lambda: "cannot be written on the node" in tin("status", run.path))
    finally:
        ask("umount", run.path)


def test_a_run_with_a_job_is_rejected_until_the_job_is_cancelled(slurm: Path, work: Path):
    run = ClusterRun(work, "busy")
    run.submit("train", "cluster.options={hold: true}")
    assert re.search(rf"running jobs: {run.job} \(pending\)", run.submit("train", code=2))
    assert f"{run.job} (train)" in tin("cancel", run.path)
    wait("the end", lambda: run.job not in queue())
    assert "cancelled" in tin("status", run.path)
