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


def test_a_relative_dataset_is_found_from_any_folder(tmp_path: Path, monkeypatch):
    site = tmp_path / "site.yaml"
    site.write_text("datasets: {motions: /data/motions}")
    monkeypatch.setenv("TIN_SITE", str(site))
    monkeypatch.chdir(tmp_path)
    new = resolve("demo", tmp_path / "r", ["data.dataset=shards/one"])
    assert new.data.dataset == str(tmp_path / "shards" / "one")
    named = resolve("demo", tmp_path / "r", ["data.dataset=motions"])
    assert named.data.dataset == "motions"


@pytest.mark.parametrize("stored", ["relative", "absolute"])
def test_a_run_resumes_with_a_relative_or_an_absolute_path_of_its_dataset(
    tmp_path: Path, monkeypatch, stored
):
    monkeypatch.chdir(tmp_path)
    text = "shards" if stored == "relative" else str(tmp_path / "shards")
    (tmp_path / "config.yaml").write_text(dump(load("demo", [f"data.dataset={text}"])))
    for given in ("shards", tmp_path / "shards"):
        assert resolve("demo", tmp_path, [f"data.dataset={given}"]).data.dataset == text
    with pytest.raises(ConfigError, match="different settings: data.dataset"):
        resolve("demo", tmp_path, ["data.dataset=others"])
