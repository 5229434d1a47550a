"""Fixtures of the cluster tests: a Slurm of several nodes, small videos and shards, a first run."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_box
import slurm_users
from cluster_actions import OVER, ClusterRun, tin
from processes import run_command, which
from wheels import build_wheel

SETTINGS = """
shard.shard_mb=0.2 shard.parts=4 model.dropout=0.5 optim.lr_batch=8 train.batch=8
train.evaluate_every=4 run.device=cpu run.threads=1 run.readers=2 run.log_steps=1
run.tensorboard=false run.checkpoint_steps=4
""".split()
"""Changes of the demo recipe; with 48 videos, 24 steps and a checkpoint at every fourth step."""
CLUSTER = """\
partition: main
nodes: 2
cpus_per_task: 1
mem_gb: 2
time_min: 60
signal_s: 60
setup: [export OMP_NUM_THREADS=1]
"""
NUM_NODES = 9


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long tests, unless `-m soak` asks for them."""
    if "soak" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="long: `make soak` runs it"))


@pytest.fixture(scope="module", autouse=True)
def _no_scenes_are_over() -> None:
    """Let the waits of a module wait; the module before it may have ended its own."""
    OVER.clear()


@pytest.fixture(scope="session")
def slurm(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the folder of a running cluster; for `make soak`, its nodes have links to cut."""
    if not os.environ.get("TIN_REQUIRE_SLURM"):
        pytest.skip("TIN_REQUIRE_SLURM=1 starts a Slurm on this machine (`make test-cluster`)")
    if not which("slurmctld"):
        slurm_box.install()
    box = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # paths of sockets must be short
    reason = slurm_box.obstacle(box)
    if reason:
        box.rmdir()
        pytest.fail(reason)
    old = dict(os.environ)
    small_disks = [box / "small", box / "small_too"]  # one for each scene that fills its disk
    for disk in small_disks:
        disk.mkdir()
        # The nodes start later, so they see this mount.
        run_command("mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", disk)
    mounts = [*small_disks, *slurm_users.share_python(box)]
    try:
        network = "soak" in request.config.getoption("-m")
        slurm_box.up(box, NUM_NODES, network=network)
        yield box
    finally:
        slurm_box.down(box)
        left = slurm_box.processes_of(box)
        for folder in mounts:
            run_command("umount", "-l", folder)
        os.environ.clear()
        os.environ.update(old)
        shutil.rmtree(box, ignore_errors=True)
        assert not left, f"processes of the test cluster are left: {left}"


@pytest.fixture(scope="session")
def work(slurm: Path, tmp_path_factory) -> Path:
    """Return a folder with videos, a recipe `tiny.yaml`, a cluster file `box.yaml` and shards."""
    folder = tmp_path_factory.mktemp("work")
    # Build before any run: the compiled operator and its definition differ in their last bits.
    tin("op", "build")
    videos = folder / "videos"
    tin("data", "demo", videos, "--train", 48, "--val", 16, "--size", 36)
    labels = videos / "labels.csv"
    paths = {"data.dataset": folder / "data", "shard.source": videos, "shard.labels": labels}
    named = [f"{name}={path}" for name, path in paths.items()]
    (folder / "tiny.yaml").write_text(tin("config", "demo", *named, *SETTINGS))
    (folder / "box.yaml").write_text(CLUSTER)
    (slurm / "python").write_text(f'#!/bin/sh\nPATH=/nowhere exec {sys.executable} "$@"\n')
    (slurm / "python").chmod(0o755)
    tin("shard", videos, folder / "data", "--labels", labels, "shard.shard_mb=0.2")
    return folder


@pytest.fixture(scope="session")
def undisturbed(work: Path) -> ClusterRun:
    """Return a run on two nodes with one rank each that is not disturbed."""
    run = ClusterRun(work, "undisturbed")
    run.submit("train")
    return run


@pytest.fixture(scope="session")
def installed(slurm: Path, tmp_path_factory) -> Path:
    """Return the folder of the cluster, whose users now have the wheel of this checkout."""
    slurm_users.install(slurm, build_wheel(tmp_path_factory.mktemp("wheel")))
    return slurm
