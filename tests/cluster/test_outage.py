"""The controller of Slurm is away for a while at the moment of a requeue."""

import os
import signal
import time
from pathlib import Path

import pytest
import slurm_box
from cluster_actions import ClusterRun, wait

pytestmark = pytest.mark.cluster
AWAY_S = 90.0
SHORT = ("cluster.nodes=1", "train.epochs=2", "train.evaluate_every=2")
RUNS = {"outage": (), "outage_container": ("cluster.python=%s/python",)}
"""A run with Slurm's commands, and one whose Python finds none of them, as in a container."""


@pytest.fixture(scope="module")
def runs(slurm: Path, work: Path) -> dict[str, ClusterRun]:
    """Stop two runs while slurmctld is away, and wait until they are complete."""
    found = {name: ClusterRun(work, name) for name in RUNS}
    for name, run in found.items():
        settings = [word.replace("%s", str(slurm)) for word in RUNS[name]]
        run.submit(
            "train", "cluster.nodes=1", "train.epochs=2", "train.evaluate_every=2", *settings
        )
    for run in found.values():
        run.wait_step(2)
    ranks = {name: wait("ranks", run.ranks) for name, run in found.items()}
    slurm_box.stop_controller(slurm)
    began = time.monotonic()
    try:
        for pids in ranks.values():
            for pid in pids.values():
                os.kill(pid, signal.SIGUSR2)
        time.sleep(AWAY_S - (time.monotonic() - began))
    finally:
        slurm_box.start_controller(slurm)
    for run in found.values():
        run.wait_done()
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_controller_that_is_away_during_a_requeue_loses_nothing(
    name: str, runs: dict[str, ClusterRun]
):
    run = runs[name]
    assert [end.kind for end in run.ends] == ["stopped", "done"]
    assert run.steps_logged() == list(range(1, 13))
