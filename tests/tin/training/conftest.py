"""The dataset of the short training runs."""

from pathlib import Path

import pytest
from short_runs import NUM_VIDEOS
from synthetic_dataset import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return write_dataset(folder, [9] * NUM_VIDEOS, sizes=((48, 40), (40, 52)))
