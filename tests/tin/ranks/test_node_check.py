"""Node checks: each kind of unfit node is named."""

from pathlib import Path

import pytest
import torch

from tin.ranks import node_check
from tin.ranks.distributed import World


def alone() -> World:
    return World(0, 0, 1, torch.device("cpu"))


def test_a_fit_node_passes_and_leaves_nothing(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    node_check.check_node(alone(), tmp_path)
    assert "1 nodes, 1 ranks are fit" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(node_check.NodeError, match="cannot write /proc/run"):
        node_check.check_node(alone(), Path("/proc/run"))


def test_a_node_that_computes_wrongly_is_named(tmp_path: Path, monkeypatch):
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + 1)
    with pytest.raises(node_check.NodeError, match="cpu computes wrong numbers"):
        node_check.check_node(alone(), tmp_path)


def test_a_node_without_memory_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(node_check, "_meminfo", lambda name: 10**6)
    with pytest.raises(node_check.NodeError, match=r"only 0\.00 GB of free memory"):
        node_check.check_node(alone(), tmp_path)
