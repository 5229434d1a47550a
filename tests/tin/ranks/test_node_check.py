"""Node checks: a node that fails one is named, with the reason."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from tin.ranks.distributed import World
from tin.ranks.node_check import NodeError, check_node

ALONE = World(0, 0, 1, torch.device("cpu"))


def test_a_healthy_node_passes_and_no_file_is_left(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    check_node(ALONE, tmp_path)
    assert "node checks passed: nodes 1, ranks 1 (" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(NodeError, match="cannot write /proc/run"):
        check_node(ALONE, Path("/proc/run"))


def test_a_node_that_computes_wrong_numbers_is_named(tmp_path: Path, monkeypatch):
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + 1)
    with pytest.raises(NodeError, match="cpu computes wrong numbers"):
        check_node(ALONE, tmp_path)


def test_a_node_without_free_memory_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(NodeError, match=r"only 0\.00 GB of free memory; .* at least 1\.00 GB"):
        check_node(ALONE, tmp_path)
