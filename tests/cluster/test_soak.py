"""What takes long: the real time limit, a cut link, twenty disturbances over one run."""

import random
import signal
from pathlib import Path

import pytest
import slurm_box
from hands import Run, ask, assert_same_bits, wait
from test_interruption import call_prod

pytestmark = [pytest.mark.cluster, pytest.mark.soak]
LONG = ("train.epochs=60", "train.evaluate_every=20")  # 360 steps
LOW = ("cluster.partition=low", "cluster.options={nodelist: 'node[8-9]'}")
KINDS = ("user_signal", "terminate", "kill_rank", "stop_rank", "preempt", "lose_node", "cut")
NIGHT_S = 3600.0


@pytest.fixture(scope="module")
def long_undisturbed(work: Path) -> Run:
    """Return a long run that nothing happened to."""
    run = Run(work, "long_undisturbed")
    run.submit("train", *LONG, "cluster.exclude=node[3-9]")
    run.wait_done(seconds=NIGHT_S)
    return run


def nodes_of(run: Run) -> list[str]:
    listed = wait(
        "nodes", lambda: ask("squeue", "-h", "-j", run.job, "-t", "R", "-o", "%N").strip()
    )
    return ask("scontrol", "show", "hostnames", listed).split()


def test_a_time_limit_costs_no_step(work: Path, long_undisturbed: Run):
    run = Run(work, "time_limit")
    run.submit("train", *LONG, "cluster.time_min=2", "cluster.signal_s=20")
    run.wait_done(seconds=NIGHT_S)
    assert [end.kind for end in run.ends][-1] == "done"
    assert len(run.ends) > 1
    assert {end.kind for end in run.ends[:-1]} == {"stopped"}
    assert run.steps_logged() == list(range(1, 361))
    assert_same_bits(run, long_undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_cut_link_moves_the_run_and_fences_the_rank_that_lives_on(
    rank: int, slurm: Path, work: Path, long_undisturbed: Run
):
    run = Run(work, f"cut_link_{rank}")
    run.submit("train", *LONG, "run.hang_minutes=1.0", "cluster.exclude=node[8-9]")
    run.wait_step(20)
    node = nodes_of(run)[rank]
    slurm_box.cut(slurm, node)
    try:
        run.wait_done(seconds=NIGHT_S)
    finally:
        slurm_box.heal(slurm, node)
    assert "lost" in {end.kind for end in run.ends} or "failed" in {end.kind for end in run.ends}
    assert_same_bits(run, long_undisturbed)


def test_twenty_disturbances_do_not_show_in_the_bits(
    slurm: Path, work: Path, long_undisturbed: Run
):
    run, chance = Run(work, "twenty"), random.Random(1)
    run.submit("train", *LONG, *LOW, "run.hang_minutes=0.5", "run.max_restarts=30")
    for start in range(20):
        run.wait_step(5 + 15 * start + chance.randrange(5))
        kind, rank = chance.choice(KINDS), chance.randrange(2)
        if kind == "preempt":
            call_prod("node[8-9]")
        elif kind in ("lose_node", "cut"):
            node = nodes_of(run)[rank]
            hurt, mend = {
                "lose_node": (slurm_box.kill, slurm_box.start),
                "cut": (slurm_box.cut, slurm_box.heal),
            }[kind]
            hurt(slurm, node)
            wait(
                "its loss",
                lambda: ask("squeue", "-h", "-j", run.job, "-o", "%T").strip() != "RUNNING",
            )
            mend(slurm, node)
        elif kind in ("kill_rank", "stop_rank"):
            run.signal_rank(rank, signal.SIGKILL if kind == "kill_rank" else signal.SIGSTOP)
        else:
            run.signal_all(signal.SIGUSR2 if kind == "user_signal" else signal.SIGTERM)
        wait(f"the end of start {start}", lambda start=start: len(run.ends) > start)
    run.wait_done(seconds=NIGHT_S)
    assert_same_bits(run, long_undisturbed)
