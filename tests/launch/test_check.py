"""What `tin check` finds on a machine, and what a dry run estimates."""

import subprocess
from pathlib import Path

import pytest
import synthetic_dataset

from configs.cluster import load_cluster
from configs.load import load
from launch.check import Gpu, install_line, look
from launch.submission.estimate import estimate


def gpu(driver: str, capability: str) -> Gpu:
    return Gpu("NVIDIA X", driver, "81559", capability)


@pytest.mark.parametrize(
    ("gpus", "extra"),
    [
        ([gpu("580.65.06", "9.0")], "'tin-video[cuda13]'"),
        ([gpu("580.65.06", "7.0")], "'tin-video[cuda12]'"),  # CUDA 13 has dropped V100
        ([gpu("535.104.05", "8.0")], "'tin-video[cuda12]'"),
        ([gpu("580.65.06", "9.0"), gpu("580.65.06", "7.0")], "'tin-video[cuda12]'"),
        ([], "'tin-video[cuda13]'  # the CPU build of torch is enough"),
        ([gpu("470.1", "8.0")], "none: driver 470 is older than 525; update it"),
    ],
)
def test_the_install_line_follows_the_driver_and_the_gpu(gpus: list[Gpu], extra: str):
    assert extra in install_line(gpus)


def test_the_check_finds_something_for_every_row():
    rows = list(look())
    names = [row.name for row in rows]
    assert {"python", "torch", "CPUs", "memory", "Slurm", "network", "install"} <= set(names)
    assert all(row.found for row in rows)


def test_the_check_knows_the_file_system_of_shared_memory():
    rows = {row.name: row.found for row in look()}
    # df names the file system of a path by its own means
    df = ["df", "--output=fstype", "/dev/shm"]
    kind = subprocess.run(df, capture_output=True, text=True, check=True).stdout.split()[-1]
    assert rows["shared memory"].startswith(f"/dev/shm: {kind}, ")


def test_an_estimate_counts_steps_reads_and_bytes(tmp_path: Path):
    synthetic_dataset.write_dataset(tmp_path / "data", [3] * 20)
    config = load(None, [f"data.dataset={tmp_path / 'data'}", "train.batch=8", "train.epochs=3"])
    found = estimate(config, load_cluster("gpu"))
    assert found is not None
    assert (found.clips, found.steps) == (20, 2)
    sizes = [path.stat().st_size for path in (tmp_path / "data").glob("*.tar")]
    assert 0 < found.mb_per_clip < 8 * sum(sizes) / 60 / 1e6  # 8 of 60 frames, without tar headers
    assert found.reads_per_s == pytest.approx(8 * 250 * 8)  # 8 frames, 250 clips/s, 8 ranks
    time, steps, *_ = found.lines(config, load_cluster("gpu"), num_runs=3)
    assert "6 in all" in steps
    # 8 GPUs for each of the 3 runs
    hours = found.hours * config.train.epochs
    assert time == f"time: about {hours:.2f} hours for a run, {24 * hours:.1f} GPU-hours in all"


def test_there_is_no_estimate_without_a_dataset():
    assert estimate(load(None, ["data.dataset=/nowhere"]), load_cluster("gpu")) is None
