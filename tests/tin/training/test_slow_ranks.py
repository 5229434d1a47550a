"""Slow ranks are named once, with their nodes; ratios by hand arithmetic, and real runs."""

import csv
import logging
import os
import time

import torch
from any_ranks_runs import replace_backbone
from rank_processes import finish, start_ranks
from short_runs import ONE_EPOCH, train_run

from tin.ranks.distributed import World
from tin.ranks.step_times import StepTimes
from tin.runs.folder import Run
from tin.runs.rank_notes import RankNote, add_note, read_notes, slow_ever, slow_now
from tin.training import trainer
from tin.training.slow_ranks import SlowRanks, ratios

SLOW = [1.0, 1.0, 1.6, 1.0]
EQUAL = [1.0, 1.1, 0.9, 1.0]
UNDISTURBED = (*ONE_EPOCH, "run.check_node=false")


def test_ratios_are_those_to_the_median():
    assert ratios([2.0, 4.0, 3.0]) == [2 / 3, 4 / 3, 1]
    assert ratios([1.0, 2.0, 4.0, 8.0]) == [0.5, 1, 2, 4]  # the lower one of 2 and 4


def test_of_two_ranks_the_faster_one_is_the_measure():
    assert ratios([1.0, 2.0]) == [1, 2]


def test_a_rank_is_named_in_its_third_slow_interval_and_only_once():
    ranks = SlowRanks(list("abcd"))
    found = [ranks.compare(SLOW) for _ in range(6)]
    assert found == [[], [], [(2, 1.6)], [], [], []]


def test_exactly_one_and_a_half_times_the_median_is_slow():
    ranks = SlowRanks("abc")
    assert [ranks.compare([2.0, 2.0, 3.0]) for _ in range(3)][-1] == [(2, 1.5)]


def test_two_slow_intervals_are_forgotten_after_an_equal_one():
    ranks = SlowRanks(list("abcd"))
    found = [ranks.compare(times) for times in [SLOW, SLOW, EQUAL, SLOW, SLOW, EQUAL]]
    assert found == [[]] * 6


def test_a_rank_is_named_again_after_it_has_recovered():
    ranks = SlowRanks(list("abcd"))
    intervals = [SLOW] * 3 + [EQUAL, SLOW] + [EQUAL] * 3 + [SLOW] * 3
    found = [ranks.compare(times) for times in intervals]
    assert [place for place, changed in enumerate(found) if changed] == [2, 7, 10]
    assert found[10] == [(2, 1.6)]


def test_a_single_rank_measures_nothing():
    times = StepTimes(World(0, 0, 1, torch.device("cpu")))
    times.start()
    times.ready()
    assert times.take() == []


def test_notes_are_read_back_without_damaged_rows(tmp_path):
    run = Run(tmp_path)
    run.start_attempt()
    add_note(run, RankNote(1, 30, 3, "node-7", 2.125, "slow"), epoch=0)
    with (tmp_path / "slow_ranks.csv").open("a") as file:
        file.write("1,0,x,y\n\x00\x01,,\n1,0,40,1.0,2,node-6,nonsense,slow\n")
    add_note(run, RankNote(1, 50, 1, "node-5", 1.5, "slow"), epoch=0)
    add_note(run, RankNote(1, 70, 1, "node-5", 1.0, "recovered"), epoch=0)
    assert [note.rank for note in read_notes(tmp_path)] == [3, 1, 1]
    assert slow_now(tmp_path) == "slow: rank 3 on node-7 (step 30: 2.1 times the median)"
    assert "rank 1 on node-5 (step 50: 1.5 times" in slow_ever(tmp_path)
    run.start_attempt()  # the next attempt may run on other nodes
    assert slow_now(tmp_path) == ""


def train_with_pauses(pauses_s, run_dir, *settings):
    """Train a small network on this rank, whose steps begin with a pause of so many seconds."""
    rank = int(os.environ["RANK"])
    os.environ["SLURMD_NODENAME"] = f"node-{rank}"
    logging.getLogger().addHandler(logging.FileHandler(run_dir.parent / f"rank-{rank}.log"))
    replace_backbone()
    original = trainer.train_step

    def train_step(state, batches):
        time.sleep(pauses_s[rank])
        return original(state, batches)

    trainer.train_step = train_step
    train_run(run_dir, *settings)


def test_a_slow_rank_is_named_with_its_node_within_three_intervals(dataset, tmp_path):
    run_dir = tmp_path / "run"
    settings = (f"data.dataset={dataset}", "run.log_steps=1", *UNDISTURBED)
    # The other rank takes a small part of the pause for its step, even on a busy machine.
    assert finish(start_ranks(2, train_with_pauses, [0, 3], run_dir, *settings)) == [0, 0]
    (note,) = read_notes(run_dir)
    assert (note.rank, note.node, note.step, note.change) == (1, "node-1", 3, "slow")
    assert min(spreads(run_dir)) >= 1.5
    text = (tmp_path / "rank-0.log").read_text()
    assert text.count("rank 1 on node-1 is slow: its steps took") == 1
    assert "is slow" not in (tmp_path / "rank-1.log").read_text()
    assert slow_now(run_dir) == slow_ever(run_dir)
    assert slow_now(run_dir).startswith("slow: rank 1 on node-1 (step 3: ")


def test_an_undisturbed_run_names_no_rank(dataset, tmp_path):
    run_dir = tmp_path / "run"
    settings = (f"data.dataset={dataset}", "run.log_steps=2", *UNDISTURBED)
    # Equal pauses make the share of the load of the machine small.
    assert finish(start_ranks(2, train_with_pauses, [1, 1], run_dir, *settings)) == [0, 0]
    assert read_notes(run_dir) == []
    found = spreads(run_dir)
    assert len(found) == 3 and min(found) >= 1


def spreads(run_dir):
    with (run_dir / "steps.csv").open(newline="") as file:
        return [float(row["spread"]) for row in csv.DictReader(file)]
