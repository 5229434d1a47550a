"""The run folder: attempts, rows that a resumed run removes, and recorded environments."""

import csv
import json
import os
import threading
from pathlib import Path

import pytest

from configs.files import WriteError, temporary_path
from tin.runs.folder import STEPS, Run, describe_environment


def test_each_attempt_number_is_taken_once_even_by_simultaneous_starts(tmp_path: Path):
    runs = [Run(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=run.start_attempt) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.attempt for run in runs) == list(range(1, 9))
    assert Run(tmp_path).attempts() == list(range(1, 9))


def test_a_new_attempt_removes_temporary_files_of_killed_ones(tmp_path: Path):
    run = Run(tmp_path)
    run.start_attempt()
    old = [temporary_path(tmp_path / "config.yaml"), temporary_path(run.job / "DONE")]
    other = temporary_path(run.job / "recipe.yaml")  # written by `tin submit`, not by an attempt
    for path in (*old, other):
        path.write_text("half")
        os.utime(path, (1e9, 1e9))
    new = temporary_path(tmp_path / "steps.csv")
    new.write_text("half")
    later = new.stat().st_mtime + 1000
    os.utime(new, (later, later))
    run.start_attempt()
    assert not any(path.exists() for path in old)
    assert new.exists()
    assert other.exists()


def test_rows_after_the_checkpoint_are_removed_with_an_incomplete_last_row(tmp_path: Path):
    run = Run(tmp_path)
    for step in (1, 2, 3, 4):
        run.append("steps.csv", STEPS, {"step": step, "loss": step / 3})
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("0,5,17")
    run.cut("steps.csv", STEPS, before=3)
    lines = (tmp_path / "steps.csv").read_text().splitlines()
    assert lines[0] == ",".join(STEPS)
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "2"]
    assert lines[2].split(",")[3] == "0.666667"


def test_rows_of_an_earlier_version_get_the_new_columns(tmp_path: Path):
    run = Run(tmp_path)
    old = [name for name in STEPS if name not in ("spread", "checkpoint_s")]
    for step in (1, 2, 3):
        run.append("steps.csv", old, {"step": step, "loss": 0.5, "skipped": 4})
    run.cut("steps.csv", STEPS, before=3)
    run.append("steps.csv", STEPS, {"step": 3, "skipped": 5, "spread": 1.25})
    with (tmp_path / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["skipped"], row["spread"]) for row in rows] == [
        ("1", "4", ""),
        ("2", "4", ""),
        ("3", "5", "1.25"),
    ]


def test_rows_below_a_damaged_header_are_kept(tmp_path: Path):
    (tmp_path / "few.csv").write_text("\x00,ste,loss\n0,1,0.5\n0,9,0.5\n")
    Run(tmp_path).cut("few.csv", ["epoch", "step", "loss"], before=5)
    assert (tmp_path / "few.csv").read_text() == "epoch,step,loss\n0,1,0.5\n"


def test_changes_since_the_previous_attempt_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    facts = describe_environment("cpu", 1) | {"commit": "a1", "auto": {"operator": "compiled"}}
    for auto in ({"operator": "compiled"}, {"operator": "compiled"}, {"operator": "plain PyTorch"}):
        run = Run(tmp_path)
        run.start_attempt()
        assert not caplog.text
        run.warn_of_changes({**facts, "auto": auto})
        run.write_environment({**facts, "auto": auto})
    assert "previous attempt: auto.operator: compiled -> plain PyTorch; each step" in caplog.text
    caplog.clear()
    run.start_attempt()
    run.warn_of_changes({**facts, "commit": "b2", "auto": {"operator": "plain PyTorch"}})
    assert "since the previous attempt: commit: a1 -> b2; each step still" in caplog.text


def test_done_lists_the_finished_stages(tmp_path: Path):
    run = Run(tmp_path)
    run.start_attempt()
    assert run.done() == {}
    run.finish("train")
    run.finish("test")
    assert list(run.done()) == ["train", "test"]


def test_the_environment_is_recorded(tmp_path: Path):
    run = Run(tmp_path)
    run.start_attempt()
    run.write_environment(describe_environment("cpu", 2))
    facts = json.loads((tmp_path / "environment-01.json").read_text())
    assert facts["world_size"] == 2
    assert facts["versions"]["torch"].startswith("2.")


def test_a_row_that_does_not_fit_the_disk_names_the_file(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"cannot write .*metrics\.csv: No space left on device"):
        run.append("metrics.csv", ["step"], {"step": 1})
