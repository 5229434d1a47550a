"""Goodput of runs that are written by hand: each expected value is arithmetic on their times."""

import json

import pytest
from written_runs import START, write_attempt, write_run

from tin.reports.results import load_runs, write_report

OLD = "epoch,step,time,loss,lr,clips_per_s,data_wait,memory_gb,gpu_use,gpu_power,skipped"
NEW = f"{OLD},spread,checkpoint_s"


def goodput_of(run_dir):
    return load_runs([run_dir])["goodput"].iloc[0]


def write_steps(run_dir, header, *rows):
    """Write steps.csv from (step, time after START, clips/s) and, in new files, seconds saved."""
    text = [header]
    for step, time_s, speed, *saved in rows:
        more = f",1.0,{saved[0]}" if saved else ""
        text.append(f"0,{step},{START + time_s},2.0,0.01,{speed},0.0,,,,0{more}")
    (run_dir / "steps.csv").write_text("\n".join(text) + "\n")


@pytest.fixture
def run_dir(tmp_path):
    """A run with steps of 50 clips and one attempt of 100 s, of which 10 s went into its start."""
    run_dir = write_run(tmp_path / "run", "train.batch=50")
    (run_dir / "environment-02.json").unlink()
    (run_dir / "job" / "attempt-02").unlink()
    write_attempt(run_dir, 1, launched=START - 10, started=START, ended=START + 90)
    return run_dir


def test_steps_count_without_start_checkpoints_and_evaluation(run_dir):
    # 20 steps at 50 clips/s are 20 s, 20 at 100 clips/s are 10 s, of which 4 s wrote a checkpoint.
    write_steps(run_dir, NEW, (20, 20, 50, 0), (40, 30, 100, 4))
    assert goodput_of(run_dir) == pytest.approx((20 + 10 - 4) / 100)


def test_files_of_earlier_versions_have_a_goodput(run_dir):
    write_attempt(run_dir, 1, started=START, ended=START + 100)
    write_steps(run_dir, OLD, (20, 20, 50), (40, 30, 100))
    assert goodput_of(run_dir) == pytest.approx(30 / 100)


def test_steps_that_were_repeated_after_a_kill_count_once(run_dir):
    # Attempt 1 was killed 80 s after its start, with a checkpoint of step 10. Attempt 2 repeats
    # the later steps and takes 40 s in all. Nothing counts the 60 s between the two.
    write_attempt(run_dir, 1, launched=START - 10, started=START)
    write_attempt(
        run_dir,
        2,
        launched=START + 140,
        started=START + 145,
        ended=START + 180,
        previous_seen=START + 80,
    )
    write_steps(run_dir, NEW, (10, 20, 50, 0), (30, 165, 100, 0))
    assert goodput_of(run_dir) == pytest.approx((10 + 10) / (90 + 40))


def test_an_attempt_that_was_killed_early_counts_by_its_own_file(run_dir):
    # It was killed before it wrote its environment, so only its attempt file knows the start.
    (run_dir / "environment-01.json").unlink()
    (run_dir / "job" / "attempt-01").write_text(json.dumps({"started": START}))
    write_attempt(run_dir, 2, started=START + 50, ended=START + 90, previous_seen=START + 10)
    write_steps(run_dir, NEW, (20, 80, 50, 0))
    assert goodput_of(run_dir) == pytest.approx(20 / (10 + 40))


def test_a_row_stands_for_the_steps_of_a_damaged_row_before_it(run_dir):
    write_steps(run_dir, NEW, ("x", 20, 50, 0), (40, 40, 50, 0))
    assert goodput_of(run_dir) == pytest.approx(40 / 100)


@pytest.mark.parametrize("speed", ["inf", "-5", "0", "", "nan", "fast"])
def test_rows_without_a_usable_speed_do_not_count(run_dir, speed):
    write_steps(run_dir, NEW, (20, 20, 50, "?"), (40, 40, speed, 0))
    assert goodput_of(run_dir) == pytest.approx(20 / 100)


@pytest.mark.parametrize(
    "damage",
    ["steps.csv", "environment-01.json", "no attempts", "no rows", "impossible"],
)
def test_a_run_without_the_data_has_an_empty_cell(run_dir, tmp_path, damage):
    write_steps(run_dir, NEW, (20, 20, 50, 0))
    if damage == "no rows":
        write_steps(run_dir, NEW)
    elif damage == "no attempts":
        (run_dir / "job" / "attempt-01").unlink()
    elif damage == "impossible":  # 2,000 s of steps in 100 s
        write_steps(run_dir, NEW, (2000, 20, 50, 0))
    else:
        (run_dir / damage).write_bytes(b"\x00\xff{")
    frame = load_runs([run_dir])
    assert frame["goodput"].isna().all() and not frame["state"].iloc[0].startswith("broken")
    write_report(frame, tmp_path / "out")


def test_all_files_of_the_report_have_the_goodput(run_dir, tmp_path):
    write_steps(run_dir, NEW, (20, 20, 50, 0))
    page = write_report(load_runs([run_dir]), tmp_path / "out")
    assert "goodput" in (tmp_path / "out" / "results.csv").read_text().splitlines()[0]
    assert "goodput %" in (tmp_path / "out" / "results.md").read_text()
    assert "goodput \\%" in (tmp_path / "out" / "results.tex").read_text()
    assert "20.00" in (tmp_path / "out" / "results.md").read_text()
    assert page.exists()


def test_the_report_names_slow_ranks(run_dir, tmp_path):
    rows = "attempt,epoch,step,time,rank,node,ratio,change\n1,0,30,5.0,3,node-7,2.1,slow\n"
    (run_dir / "slow_ranks.csv").write_text(rows)
    page = write_report(load_runs([run_dir]), tmp_path / "out")
    sentence = "ranks were slow: rank 3 on node-7 (step 30: 2.1 times the median)"
    assert (
        sentence in page.read_text()
        and "rank 3 on node-7" in (tmp_path / "out" / "results.md").read_text()
    )
