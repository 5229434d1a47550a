"""`tin doctor` as it is typed: a run, a recipe, two ranks, and what it prints and writes."""

import json

import pytest
from short_runs import SETTINGS, train_run
from synthetic_dataset import write_dataset
from typer.testing import CliRunner

from launch import cli
from tin.bench import doctor
from tin.bench.diagnosis import PARTS, load

SMALL = ("train.batch=4", "clip.num_segments=2", "train.epochs=1", "train.evaluate_every=1")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(cli, "set_up_logging", lambda rank: None)
    monkeypatch.setattr(doctor.examine, "__defaults__", (1.0,))


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset", [4] * 24, sizes=((48, 40),))


def test_a_run_gets_bars_a_verdict_and_a_file(dataset, tmp_path):
    run_dir = tmp_path / "run"
    train_run(run_dir, *SMALL, f"data.dataset={dataset}")
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    result = CliRunner().invoke(cli.app, ["doctor", str(run_dir), "train.epochs=2"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    lines = result.stdout.splitlines()
    for part in PARTS:
        assert any(line.startswith(part) and "%" in line for line in lines), part
    assert any(line.endswith("bounds this run.") for line in lines)
    found = load(run_dir / "doctor.json")
    assert f"{found.bound} bounds this run." in lines
    assert (found.conditions.clips, found.conditions.steps) == (4, 6)
    # Nothing else of the run has changed, and the temporary run is gone.
    after = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert set(after) - set(before) == {run_dir / "doctor.json"}
    assert all(after[path] == time for path, time in before.items() if path.is_file())


def test_a_recipe_is_measured_without_a_run(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "found.json"
    settings = [*SETTINGS, *SMALL, f"data.dataset={dataset}"]
    result = CliRunner().invoke(cli.app, ["doctor", "clips", *settings, "--json", str(out)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    found = json.loads(out.read_text())
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert set(found["shares"]) == set(PARTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "found.json"]


def test_what_is_neither_a_recipe_nor_a_run_is_rejected(tmp_path):
    result = CliRunner().invoke(cli.app, ["doctor", str(tmp_path / "nothing")])
    assert result.exit_code != 0
    assert "does not exist" in str(result.exception)
