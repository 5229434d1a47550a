"""Fixtures of all tests; every test starts from the same random seeds."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

# Set this before torch is imported: threads that spin while they wait take the CPU from others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from it
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference numbers and real videos; skip the test if it is missing."""
    if SHARED.is_dir():
        return SHARED
    if os.environ.get("TIN_REQUIRE_SHARED"):
        pytest.fail(f"TIN_REQUIRE_SHARED is set, but {SHARED} does not exist")
    pytest.skip(f"needs reference numbers and videos in {SHARED}, which does not exist")


@pytest.fixture(scope="session")
def strace() -> str:
    """Return the path of strace; skip where it is absent, fail in CI, which installs it."""
    path = shutil.which("strace")
    if path is None and os.environ.get("CI"):
        pytest.fail("strace is absent, and CI must run this test")
    if path is None:
        pytest.skip("strace is absent")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on a machine without a GPU, unless TIN_REQUIRE_GPU is set."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("TIN_REQUIRE_GPU"):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
