"""The goodput of a run that was killed and resumed equals what its files tell by hand."""

import csv
import json
import os
import signal
import time

import pytest
from rank_processes import finish, start_ranks
from short_runs import ONE_EPOCH, train_run

from tin.reports.results import load_runs
from tin.training import trainer

SETTINGS = (*ONE_EPOCH, "run.log_steps=1", "run.checkpoint_steps=4", "run.check_node=false")
CLIPS = 4
"""Clips of a step."""


def train_and_die(run_dir, *settings):
    """Train until five of six steps are complete; the checkpoint has four of them."""
    original = trainer.train_step

    def train_step(state, batches):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return original(state, batches)

    trainer.train_step = train_step
    train_run(run_dir, *settings)


def rows_of(run_dir):
    with (run_dir / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_goodput_of_a_killed_and_resumed_run(dataset, tmp_path):
    run_dir = tmp_path / "run"
    before = time.time()
    settings = (f"data.dataset={dataset}", *SETTINGS)
    assert finish(start_ranks(1, train_and_die, run_dir, *settings)) == [-signal.SIGKILL]
    killed = rows_of(run_dir)
    assert [int(row["step"]) for row in killed] == [1, 2, 3, 4, 5]
    heartbeat = (run_dir / "job" / "attempt-01").stat().st_mtime
    last_seen = max(float(killed[-1]["time"]), heartbeat)
    assert finish(start_ranks(1, train_run, run_dir)) == [0]

    rows = rows_of(run_dir)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]  # step 5 counts once
    useful_s = sum(CLIPS / float(row["clips_per_s"]) for row in rows)
    useful_s -= sum(float(row["checkpoint_s"]) for row in rows)
    assert float(rows[4]["checkpoint_s"]) == 0  # attempt 2 began after the checkpoint
    first, second = (
        json.loads((run_dir / f"environment-0{attempt}.json").read_text()) for attempt in (1, 2)
    )
    assert before - 1 <= first["launched"] <= first["started"] <= last_seen <= second["launched"]
    hours_s = last_seen - first["launched"] + second["ended"] - second["launched"]
    goodput = load_runs([run_dir])["goodput"].iloc[0]
    assert goodput == pytest.approx(useful_s / hours_s, rel=1e-4)
    assert 0 < goodput < 1


def test_a_checkpoint_inside_an_epoch_is_not_part_of_the_steps(dataset, tmp_path):
    run_dir = tmp_path / "run"
    train_run(run_dir, f"data.dataset={dataset}", *SETTINGS)
    saved_s = [float(row["checkpoint_s"]) for row in rows_of(run_dir)]
    # The checkpoint of step 4 is written in the interval of step 5.
    assert [time_s > 0 for time_s in saved_s] == [False] * 4 + [True, False]
