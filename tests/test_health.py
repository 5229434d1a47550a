"""Ranks that hang leave their stacks; nodes that are unfit are named."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tin import health
from tin.distributed import World

HANG = """
import sys, time
from pathlib import Path
from tin import health
health.FIRST_STEP_S, health.GRACE_S = 3.0, 0.1
def waits_for_ever():
    while True:
        time.sleep(0.01)
with health.Watchdog(Path(sys.argv[1]), attempt=3, rank=1, minutes=2 / 60) as watchdog:
    for _ in range(20):  # steps in time: nothing happens
        time.sleep(0.05)
        watchdog.beat()
    waits_for_ever()
"""


def alone() -> World:
    return World(0, 0, 1, torch.device("cpu"))


def test_a_hang_ends_the_rank_with_its_stacks(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", HANG, str(tmp_path)], timeout=60)
    assert done.returncode == health.HUNG
    text = (tmp_path / "stacks-03-rank1.txt").read_text()
    assert re.search(r"no step for ([2-9]|\d\d+) s", text)  # 2 s and what a busy machine adds
    assert "waits_for_ever" in text


def test_a_fit_node_passes_and_leaves_nothing(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    health.check_node(alone(), tmp_path)
    assert "1 nodes, 1 ranks are fit" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(health.NodeError, match="cannot write /proc/run"):
        health.check_node(alone(), Path("/proc/run"))


def test_a_node_that_computes_wrongly_is_named(tmp_path: Path, monkeypatch):
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + 1)
    with pytest.raises(health.NodeError, match="cpu computes wrong numbers"):
        health.check_node(alone(), tmp_path)


def test_a_node_without_memory_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(health, "_meminfo", lambda name: 10**6)
    with pytest.raises(health.NodeError, match=r"only 0\.00 GB of free memory"):
        health.check_node(alone(), tmp_path)
