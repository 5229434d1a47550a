"""The commands test, predict, report and fuse, as a user types them."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from configs.load import dump, load
from launch.commands.results import add_to
from tin.evaluation.scores import Scores, save

app = typer.Typer()
add_to(app)


def _tin(*arguments: object, code: int = 0) -> str:
    """Run a command and return what it prints; it must exit with `code`."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == code, found.output + repr(found.exception)
    return found.stdout


@pytest.fixture
def tests(tmp_path):
    """Two tests of two videos, written by hand."""
    for name, mean in {"one": [[0.8, 0.2], [0.6, 0.4]], "two": [[0.4, 0.6], [0.2, 0.8]]}.items():
        scores = Scores(["a", "b"], np.array([0, 1]), np.float32(mean)[:, None], ("p", "q"))
        save(tmp_path / name, scores, {})
    return tmp_path / "one", tmp_path / "two"


def test_fuse_prints_weights_and_metrics_and_writes_a_submission(tests, tmp_path):
    text = _tin(
        "fuse", *tests, "--out", tmp_path / "both", "--weights", "1,3",
        "--submission", tmp_path / "s.csv", "--submission", tmp_path / "s.json",
    )  # fmt: skip
    # 1/4 of the first and 3/4 of the second: .5 .5 and .3 .7
    assert text.splitlines()[:2] == ["weights 0.2500, 0.7500", "top1       1.0000"]
    assert (tmp_path / "s.csv").read_text().splitlines()[1] == "b;q;p"
    assert set(json.loads((tmp_path / "s.json").read_text())["results"]) == {"a", "b"}


def test_fuse_fits_weights_on_other_tests(tests, tmp_path):
    fit = ("--fit", tests[0], "--fit", tests[1])
    text = _tin("fuse", *tests, "--out", tmp_path / "both", *fit)
    # the scores of the right class are .8 .4 and .4 .8, so that neither test is better
    assert text.startswith("weights 0.5000, 0.5000")


def test_weights_that_are_not_numbers_are_rejected(tests, tmp_path):
    found = CliRunner().invoke(
        app, ["fuse", *map(str, tests), "--out", str(tmp_path), "--weights", "x"]
    )
    assert "expected numbers separated by commas" in str(found.exception)


def test_report_prints_the_table_and_the_path_of_the_page(tmp_path):
    (tmp_path / "started" / "job").mkdir(parents=True)
    (tmp_path / "started" / "job" / "recipe.yaml").write_text(dump(load("demo")))
    lines = _tin("report", tmp_path / "started", "--out", tmp_path / "out").splitlines()
    assert lines[0].split()[0] == "run"
    assert lines[1].startswith("started")
    assert lines[-1] == str(tmp_path / "out" / "results.html")
    assert (tmp_path / "out" / "results.html").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_report_without_a_run_is_an_error_and_writes_nothing(tmp_path, exists):
    if exists:
        (tmp_path / "nowhere").mkdir()
    command = ["report", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, command)
    what = "contains no run" if exists else "does not exist"
    assert str(found.exception).startswith(f"{tmp_path / 'nowhere'} {what}")
    assert not (tmp_path / "out").exists()


def test_views_of_the_wrong_form_are_rejected(tmp_path):
    found = CliRunner().invoke(app, ["test", str(tmp_path), "--views", "2"])
    assert "expected CLIPSxCROPS, for example 2x3" in str(found.exception)


def test_report_compares_two_models_on_the_same_videos(tests):
    # The first test is right on the first video only, the second on the second video only.
    text = _tin("report", "--compare", *tests)
    assert "first minus second: +0.00 points" in text
    assert "2 videos, seeds: 1 and 1" in text
    assert "This holds for these trained models." in text


def test_report_without_runs_is_rejected():
    found = CliRunner().invoke(app, ["report"])
    assert "name a run or a folder of runs" in str(found.exception)
