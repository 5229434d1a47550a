"""The settings of new and of resumed runs."""

from pathlib import Path

import pytest

from configs.load import ConfigError, dump, load
from tin.runs.settings import resolve


def test_a_new_run_needs_a_recipe(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a run yet; name a recipe"):
        resolve(None, tmp_path, [])
    assert resolve("demo", tmp_path, ["train.seed=3"]).train.seed == 3


def test_a_run_resumes_only_with_its_own_settings(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump(load("demo", ["train.seed=3"])))
    assert resolve(None, tmp_path, ["run.threads=1"]).run.threads == 1
    assert resolve("demo", tmp_path, ["train.seed=3"]).train.seed == 3
    with pytest.raises(ConfigError, match="different settings: train.seed: 3 -> 0. Leave them out"):
        resolve("demo", tmp_path, [])
    with pytest.raises(ConfigError, match="model.arch: resnet18 -> resnet50"):
        resolve(None, tmp_path, ["model.arch=resnet50"])
