"""The stage `predict` of a submission."""

import json
import os
from pathlib import Path

import pytest
from synthetic_dataset import write_dataset
from untrained_run import SETTINGS, write_run

from configs.load import ConfigError, dump, load
from launch.jobs.stages import run_stage
from launch.submission.plan import make_submission
from tin.runs.folder import Run

TRAINING = ("train.batch=4", "model.init=none")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", [6] * 6)


def settings(dataset: Path) -> list[str]:
    return [f"data.dataset={dataset}", "data.test_split=train", *SETTINGS, *TRAINING]


def test_the_stage_predicts_the_test_split_into_the_run(dataset: Path, tmp_path: Path):
    run_dir = write_run(tmp_path / "run", dataset)
    run = Run(run_dir)
    run.job.mkdir()
    chosen = [*settings(dataset), "predict.top=2", "predict.part=4"]
    run.recipe.write_text(dump(load(None, chosen)))
    (run.job / "cluster.yaml").write_text("executor: local\n")
    run_stage(run_dir, "predict")
    result = json.loads((run_dir / "predictions" / "result.json").read_text())
    assert (result["num_predicted"], result["num_parts"]) == (6, 2)
    header = (run_dir / "predictions" / "predictions.csv").read_text().splitlines()[0]
    assert header == "key,labels,class1,score1,class2,score2"


def test_predict_follows_test_and_needs_a_run(dataset: Path, tmp_path: Path):
    os.environ.pop("TIN_STAGED", None)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(dump(load(None, settings(dataset))))
    submission = make_submission("train,predict", str(recipe), tmp_path / "run", "local", [])
    assert [step.stage for step in submission.steps] == ["train", "predict"]
    with pytest.raises(ConfigError, match="submit train,predict"):
        make_submission("predict", str(recipe), tmp_path / "run", "local", [])
    with pytest.raises(ConfigError, match="in this order"):
        make_submission("predict,test", str(recipe), tmp_path / "run", "local", [])
    done = write_run(tmp_path / "done", dataset, *TRAINING)
    chosen = ["data.test_split=val", "predict.scores=true"]
    make_submission("predict", str(recipe), done, "local", chosen)
