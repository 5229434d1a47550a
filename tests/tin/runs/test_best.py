"""best.pt: replaced by the checkpoint that it was made from, and never by another one."""

from pathlib import Path

import pytest
import torch
from written_runs import write_run

from tin.runs import checkpoint
from tin.runs.best import find_best, measured, rebuild_best
from tin.runs.checkpoint import CheckpointError
from tin.runs.folder import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run whose validation accuracy is 0.25, 0.75 and 0.5 at the steps 10, 20 and 30."""
    run = Run(write_run(tmp_path / "run"))
    run.attempt = 2
    for step in (10, 20):
        checkpoint.save(run, {"global_step": step, "model": {"w": torch.full((3,), float(step))}})
    checkpoint.save(run, {"global_step": 20, "model": {"w": torch.full((3,), 20.0)}}, "best.pt")
    return run


def flip(path: Path) -> None:
    """Change a bit of the first tensor of a checkpoint."""
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((3,), 20.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)


def test_the_best_epoch_is_read_from_metrics_csv_without_numbers_that_are_not_finite(run: Run):
    with (run.path / "metrics.csv").open("a") as file:
        file.write("3,val,40,nan,0.99,0,,,0,0,0,0\n3,val,50,0.1,nan,0,,,0,0,0,0\ngarbage\n")
    assert [row.step for row in measured(run)] == [20, 30, 10]


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_or_damaged_best_is_written_again_from_the_checkpoint_of_its_epoch(
    run: Run, lost: bool, caplog: pytest.LogCaptureFixture
):
    path = run.checkpoints / "best.pt"
    intact = path.read_bytes()
    if lost:
        path.unlink()
    else:
        flip(path)
    assert find_best(run) == path
    assert checkpoint.load(path)["global_step"] == 20
    assert "step-00000020-a02.pt has the same weights" in caplog.text
    assert not checkpoint.damage(path) and len(path.read_bytes()) == len(intact)


def test_while_a_run_trains_a_damaged_best_is_read_but_not_written(run: Run):
    (run.job / "DONE").unlink()
    flip(run.checkpoints / "best.pt")
    assert find_best(run).name == "step-00000020-a02.pt"
    assert checkpoint.damage(run.checkpoints / "best.pt")


def test_without_that_checkpoint_the_message_says_what_to_do(run: Run):
    flip(run.checkpoints / "best.pt")
    (run.checkpoints / "step-00000020-a02.pt").unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt: is damaged.*test\.checkpoint=last"):
        find_best(run)


def test_a_resumed_run_writes_the_best_of_the_checkpoints_that_are_left(run: Run):
    assert rebuild_best(run) is None
    (run.checkpoints / "best.pt").unlink()
    (run.checkpoints / "step-00000020-a02.pt").unlink()
    found = rebuild_best(run)
    assert (found.metric, found.step) == (0.25, 10)
    assert checkpoint.load(run.checkpoints / "best.pt")["global_step"] == 10


def test_a_resumed_run_without_a_measured_checkpoint_takes_the_next_evaluation(run: Run):
    for path in run.checkpoints.iterdir():
        path.unlink()
    assert rebuild_best(run).metric == -float("inf")
