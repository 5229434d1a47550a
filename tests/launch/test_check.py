"""What `tin check` says of a machine, and what a dry run estimates."""

from pathlib import Path

import pytest
import synthetic_dataset

from configs.cluster import load_cluster
from configs.load import load
from launch.check import install_line, look
from launch.submission.estimate import estimate


def gpu(driver: str, capability: str) -> list[str]:
    return ["NVIDIA X", driver, "81559", capability]


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
def test_the_install_line_follows_driver_and_gpu(gpus: list[list[str]], extra: str):
    assert extra in install_line(gpus)


def test_every_row_of_the_check_says_something():
    rows = list(look())
    names = [name for name, _, _ in rows]
    assert {"python", "torch", "CPUs", "memory", "Slurm", "network", "install"} <= set(names)
    assert all(found for _, found, _ in rows)


def test_an_estimate_counts_steps_reads_and_bytes(tmp_path: Path):
    synthetic_dataset.write_dataset(tmp_path / "data", [3] * 20)
    config = load(None, [f"data.dataset={tmp_path / 'data'}", "train.batch=8", "train.epochs=3"])
    found = estimate(config, load_cluster("gpu"))
    assert (found.clips, found.steps) == (20, 2)
    sizes = [path.stat().st_size for path in (tmp_path / "data").glob("*.tar")]
    assert 0 < found.mb_per_clip < 8 * sum(sizes) / 60 / 1e6  # 8 frames of 60; headers apart
    assert found.reads_per_s == pytest.approx(8 * 250 * 8)  # 8 frames, 250 clips/s, 8 ranks
    assert "6 in all" in found.lines(config)[0]


def test_no_estimate_without_a_dataset():
    assert estimate(load(None, ["data.dataset=/nowhere"]), load_cluster("gpu")) is None
