"""What the cluster cannot do is refused at once, with what to do instead."""

import re
from pathlib import Path

import pytest
from cluster_actions import Run, ask, ended, queue, tin, wait

pytestmark = pytest.mark.cluster
REFUSED = {
    "cluster.partition=gpu": "invalid partition specified: gpu; there is main, low, prod:",
    "cluster.account=nobody": "Invalid account or account/partition combination specified; there",
    "cluster.mem_gb=300": "16000 MB",
    "cluster.constraint=a100": "Invalid feature specification",
    "cluster.gpus_per_node=4": "Requested node configuration is not available; there is main: ",
    "cluster.exclude=node77": "Invalid node name specified; there is node[1-9]: change",
    "cluster.nodes=3": "train.batch 8 is no multiple of 3 ranks",
    "cluster.partitoin=low": "unknown setting partitoin; did you mean partition?",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_the_cluster_cannot_do_is_refused_at_once(setting: str, slurm, work: Path):
    run = Run(work, "refused")
    assert REFUSED[setting] in run.submit("train", setting, code=2)
    assert REFUSED[setting] in run.submit("train", setting, "--dry-run", code=2)


def test_a_stage_that_is_refused_takes_back_the_stages_before_it(slurm: Path, work: Path):
    run = Run(work, "half")
    told = run.submit("train,test", "cluster.stages={test: {partition: gpu}}", code=2)
    assert "invalid partition" in told
    wait("the end", lambda: not queue("half"))


def test_a_test_of_no_run_is_refused(slurm: Path, work: Path):
    assert "is no run yet: submit train,test" in Run(work, "untrained").submit("test", code=2)


def test_a_folder_that_cannot_be_written_is_refused(slurm: Path, work: Path):
    run = Run(work, "unwritable")
    run.path = Path("/proc/run")
    assert "/proc/run cannot be written" in run.submit("train", code=2)


def test_a_folder_that_the_nodes_do_not_share_is_explained(slurm: Path, tmp_path: Path, work: Path):
    run = Run(work, "unshared")
    run.path = tmp_path / "here"
    run.path.mkdir()
    ask("mount", "-t", "tmpfs", "tmpfs", run.path)  # after the nodes' namespaces were made
    try:
        run.submit("train", "cluster.nodes=1")
        ended(run)
        wait("the reason", lambda: "cannot be written on the node" in tin("status", run.path))
    finally:
        ask("umount", run.path)


def test_a_run_with_a_job_is_refused_until_it_is_cancelled(slurm: Path, work: Path):
    run = Run(work, "busy")
    run.submit("train", "cluster.options={hold: true}")
    assert re.search(rf"jobs work on it: {run.job} \(pending\)", run.submit("train", code=2))
    assert f"{run.job} (train)" in tin("cancel", run.path)
    wait("the end", lambda: run.job not in queue())
    assert "cancelled" in tin("status", run.path)
