"""The cluster of these tests, small videos and shards on it, and hands that disturb its jobs."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_box
from cluster_actions import Run, tin
from processes import run, which

SETTINGS = """
shard.shard_mb=0.2 shard.parts=4 model.dropout=0.5 optim.lr_batch=8 train.batch=8
train.evaluate_every=4 run.device=cpu run.threads=1 run.readers=2 run.log_steps=1
run.tensorboard=false run.checkpoint_steps=4
""".split()
"""What differs from the demo recipe: 48 videos, 24 steps, a checkpoint at each fourth."""
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
    """Skip what takes long, unless it is asked for."""
    if "soak" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes long: `make soak` runs it"))


@pytest.fixture(scope="session")
def slurm(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the folder of a running cluster; for the soak its nodes have networks to cut."""
    if not os.environ.get("TIN_REQUIRE_SLURM"):
        pytest.skip("TIN_REQUIRE_SLURM=1 starts a Slurm on this machine (`make test-cluster`)")
    if not which("slurmctld"):
        slurm_box.install()
    box = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # paths of sockets must be short
    reason = slurm_box.refusal(box)
    if reason:
        box.rmdir()
        pytest.fail(reason)
    old = dict(os.environ)
    small = box / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", small)  # nodes see it too
    try:
        network = "soak" in request.config.getoption("-m")
        slurm_box.up(box, NUM_NODES, network=network)
        yield box
    finally:
        slurm_box.down(box)
        run("umount", "-l", small)
        os.environ.clear()
        os.environ.update(old)
        shutil.rmtree(box, ignore_errors=True)


@pytest.fixture(scope="session")
def work(slurm: Path, tmp_path_factory) -> Path:
    """Return a folder with videos, a recipe `tiny.yaml`, a cluster file `box.yaml` and shards."""
    folder = tmp_path_factory.mktemp("work")
    tin("op", "build")  # now or never: the operator and its definition differ in their last bits
    videos = folder / "videos"
    tin("data", "demo", videos, "--train", 48, "--val", 16, "--size", 36)
    labels = videos / "labels.csv"
    places = {"data.dataset": folder / "data", "shard.source": videos, "shard.labels": labels}
    named = [f"{name}={place}" for name, place in places.items()]
    (folder / "tiny.yaml").write_text(tin("config", "demo", *named, *SETTINGS))
    (folder / "box.yaml").write_text(CLUSTER)
    (slurm / "python").write_text(f'#!/bin/sh\nPATH=/nowhere exec {sys.executable} "$@"\n')
    (slurm / "python").chmod(0o755)
    tin("shard", videos, folder / "data", "--labels", labels, "shard.shard_mb=0.2")
    return folder


@pytest.fixture(scope="session")
def undisturbed(work: Path) -> Run:
    """Return a run of two nodes with a rank each that nothing happened to."""
    run = Run(work, "undisturbed")
    run.submit("train")
    return run
