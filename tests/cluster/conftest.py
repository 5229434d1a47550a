"""The cluster of these tests, small videos and shards on it, and hands that disturb its jobs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_box
from hands import Run, tin

RECIPE = """\
data: {dataset: %s}
shard: {source: %s, labels: %s, shard_mb: 0.2, parts: 4}
clip: {num_segments: 4, crop: 32, resize: 32}
model: {arch: resnet18, init: none, dropout: 0.5}
optim: {lr: 0.02, lr_batch: 8, warmup_epochs: 0}
train: {epochs: 4, batch: 8, bn: full, evaluate_every: 4}
run: {device: cpu, threads: 1, readers: 2, log_steps: 1, tensorboard: false, checkpoint_steps: 4}
"""
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
    box = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # paths of sockets must be short
    if not slurm_box.which("slurmctld"):
        slurm_box.install()
    old = dict(os.environ)
    small = box / "small"
    small.mkdir()
    slurm_box.run("mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", small)  # nodes see it too
    try:
        network = "soak" in request.config.getoption("-m")
        slurm_box.up(box, NUM_NODES, network=network)
        yield box
    finally:
        slurm_box.down(box)
        slurm_box.run("umount", "-l", small)
        os.environ.clear()
        os.environ.update(old)
        shutil.rmtree(box, ignore_errors=True)


@pytest.fixture(scope="session")
def work(slurm: Path, tmp_path_factory) -> Path:
    """Return a folder with videos, a recipe `tiny.yaml`, a cluster file `box.yaml` and shards."""
    folder = tmp_path_factory.mktemp("work")
    videos = folder / "videos"
    tin("data", "demo", videos, "--train", 48, "--val", 16, "--size", 36)
    text = RECIPE % (folder / "data", videos, videos / "labels.csv")
    (folder / "tiny.yaml").write_text(text)
    (folder / "box.yaml").write_text(CLUSTER)
    tin("shard", videos, folder / "data", "--labels", videos / "labels.csv", "shard.shard_mb=0.2")
    return folder


@pytest.fixture(scope="session")
def undisturbed(work: Path) -> Run:
    """Return a run of two nodes with a rank each that nothing happened to."""
    run = Run(work, "undisturbed")
    run.submit("train")
    return run
