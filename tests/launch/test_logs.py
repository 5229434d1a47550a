"""Which log files are printed, and how they are followed."""

import logging
from pathlib import Path

import pytest

from configs.load import ConfigError
from launch import logs
from launch.errors import log_to_file
from launch.logs import print_attempt, print_logs
from launch.record import SubmittedJob, add_job
from tin.runs.folder import Run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run with a Slurm job of two ranks that has started twice."""
    path = tmp_path / "run"
    (path / "job" / "logs").mkdir(parents=True)
    add_job(path, SubmittedJob("7", "train", "slurm", str(path / "job" / "logs")))
    return path


@pytest.fixture
def written(run_dir: Path) -> Path:
    for rank in (0, 1):
        text = "".join(f"=== job 7, start {n}, node1\nrank {rank} start {n}\n" for n in (0, 1))
        (run_dir / "job" / "logs" / f"7_{rank}_log.err").write_text(text)
    return run_dir


def test_logs_are_printed_with_a_title_and_followed_to_the_end(run_dir: Path, monkeypatch, capsys):
    log = run_dir / "job" / "logs" / "7_0_log.err"
    log.write_text("first\n")
    rounds = iter([True, True, False])

    def sleep(_: float) -> None:
        with log.open("a") as file:
            file.write("more\n")

    monkeypatch.setattr(logs, "_may_be_active", lambda run_dir: next(rounds))
    monkeypatch.setattr(logs, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(logs.time, "sleep", sleep)
    print_logs(run_dir, follow=True)
    assert capsys.readouterr().out == f"---- train, job 7: {log}\nfirst\nmore\nmore\n"
    print_logs(run_dir, follow=False)
    assert capsys.readouterr().out == f"---- train, job 7: {log}\nfirst\nmore\nmore\n"


def test_logs_of_a_run_without_jobs_are_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="has no jobs"):
        print_logs(tmp_path, follow=False)


def test_the_log_of_a_run_without_jobs_is_that_of_tin_train(tmp_path: Path, capsys):
    with pytest.raises(ValueError, match="too small"), log_to_file(Run(tmp_path).typed_log):
        logging.getLogger().warning("first line")
        raise ValueError("too small")
    print_logs(tmp_path, follow=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"---- tin train: {tmp_path / 'job' / 'train.log'}"
    assert lines[1].endswith(" first line")
    assert lines[2].endswith(" tin: too small")


def test_the_log_of_another_rank_is_printed(written: Path, capsys):
    print_logs(written, follow=False, rank=1)
    out = capsys.readouterr().out
    assert out.startswith("---- train, job 7, rank 1: ")
    assert "rank 1 start 0" in out
    assert "rank 0" not in out


def test_the_logs_of_all_ranks_are_printed(written: Path, capsys):
    print_logs(written, follow=False, rank=None)
    out = capsys.readouterr().out
    assert out.index("rank 0 start 1") < out.index("rank 1 start 0")


def test_one_attempt_is_printed(written: Path, capsys):
    print_attempt(written, 2, rank=None)
    out = capsys.readouterr().out
    assert "rank 0 start 1" in out
    assert "rank 1 start 1" in out
    assert "start 0" not in out
    with pytest.raises(ConfigError, match="found 2 starts of jobs, so there is no attempt 3"):
        print_attempt(written, 3)
