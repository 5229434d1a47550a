"""What commands print about submissions and runs."""

from pathlib import Path

from launch.output import print_statuses
from launch.status import RunStatus

LONG = "optim.lr-0.01_" * 40  # 560 characters


def test_a_piped_table_is_not_truncated(capsys):
    statuses = [
        RunStatus(Path("/runs", LONG + "a"), "train", "running", nodes="node[1-64]", step="12"),
        RunStatus(Path("/runs", "b"), "train", "gave up", why="3 failures"),
    ]
    print_statuses(statuses, problem="")
    header, first, second, why = capsys.readouterr().out.splitlines()
    assert (
        header.split()
        == (
            "run stage state job nodes elapsed left step epoch metric best clips/s data wait saved"
            " restarts"
        ).split()
    )
    assert first.split() == [LONG + "a", "train", "running", "node[1-64]", "12", "0"]
    assert second.split() == ["b", "train", "gave", "up", "0"]
    assert why == "b: 3 failures"


def test_a_name_in_brackets_is_not_taken_for_markup(capsys):
    print_statuses([RunStatus(Path("/runs/[bold]x"), nodes="gpu[a]")], problem="")
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split() == ["[bold]x", "waiting", "gpu[a]", "0"]


def test_a_slurm_that_does_not_answer_is_reported_on_stderr(capsys):
    print_statuses([RunStatus(Path("/runs/a"))], problem="Slurm does not answer")
    assert "Slurm does not answer" in capsys.readouterr().err
