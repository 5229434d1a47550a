"""Fixtures that all tests share; every test starts from the same seeds."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

# before torch is imported: waiting threads that spin take the CPU from the ranks beside them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from it
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference numbers and real videos; skip where it is absent."""
    if SHARED.is_dir():
        return SHARED
    if os.environ.get("TIN_REQUIRE_SHARED"):
        pytest.fail(f"{SHARED} is absent and TIN_REQUIRE_SHARED is set")
    pytest.skip(f"reference numbers and videos are absent: {SHARED}")


def pytest_collection_modifyitems(items):
    """Skip tests marked gpu where there is no GPU, unless one is required."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("TIN_REQUIRE_GPU"):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
