"""The command train: who may take over a run that is being trained."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from configs.load import dump, load
from launch.commands import training
from tin.runs.folder import Run
from tin.runs.living import AliveError

app = typer.Typer()
training.add_to(app)
JOB = {"SLURM_JOB_ID": "7"}
RESTART = {"RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"}
OTHER_RANK = {"RANK": "1", "TORCHELASTIC_RESTART_COUNT": "0"}


@pytest.fixture
def started(tmp_path: Path, monkeypatch) -> list[Path]:
    """Let this process be the one that trains run `r`; return the runs that the command starts."""
    for name in ("SLURM_JOB_ID", "RANK", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    run = Run(tmp_path / "r")
    run.start_attempt()
    run.write("config.yaml", dump(load("demo")))
    runs: list[Path] = []
    monkeypatch.setattr("tin.runs.fit.check_training", lambda config, is_new: None)
    monkeypatch.setattr("tin.training.trainer.train", lambda config, run_dir: runs.append(run_dir))
    return runs


def train(tmp_path: Path, *options: str, env: dict[str, str] | None = None) -> object:
    """Type `tin train --run r`; return the exception that it ends with."""
    found = CliRunner().invoke(app, ["train", "--run", str(tmp_path / "r"), *options], env=env)
    return found.exception


def test_a_typed_command_stops_while_the_run_is_alive(tmp_path, started):
    assert isinstance(train(tmp_path), AliveError)
    assert isinstance(train(tmp_path, env={"RANK": "0"}), AliveError)
    assert started == []


def test_a_typed_command_takes_over_if_asked(tmp_path, started):
    assert train(tmp_path, "--take-over") is None
    assert started == [tmp_path / "r"]


@pytest.mark.parametrize("env", [JOB, RESTART, OTHER_RANK])
def test_jobs_and_restarts_always_take_over(tmp_path, started, env):
    assert train(tmp_path, env=env) is None
    assert started == [tmp_path / "r"]
