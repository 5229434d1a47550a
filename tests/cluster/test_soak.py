"""Long tests: a real time limit, a cut network link, and twenty disturbances of one run."""

import random
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import slurm_box
from cluster_actions import ClusterRun, ask, assert_same_bits, call_prod, wait

pytestmark = [pytest.mark.cluster, pytest.mark.soak]
LONG = ("train.epochs=40", "train.evaluate_every=20")
NUM_STEPS = 240
KINDS = ("user_signal", "terminate", "kill_rank", "stop_rank", "preempt", "lose_node", "cut")
NIGHT_S = 3600.0


def nodes_of(run: ClusterRun) -> list[str]:
    listed = wait(
        "nodes", lambda: ask("squeue", "-h", "-j", run.job, "-t", "R", "-o", "%N").strip()
    )
    return ask("scontrol", "show", "hostnames", listed).split()


def nothing(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "long_undisturbed")
    run.submit("train", *LONG, "cluster.exclude=node[3-9]")
    run.wait_done(seconds=NIGHT_S)
    return run


def time_limit(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "time_limit")
    limit = ("cluster.time_min=3", "cluster.signal_s=60")
    run.submit("train", *LONG, *limit, "cluster.exclude=node[3-9]")
    run.wait_done(seconds=NIGHT_S)
    return run


def cut_link(rank: int, work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, f"cut_link_{rank}")
    away = "node[1-2],node[6-9]" if rank == 0 else "node[1-4],node[8-9]"
    run.submit("train", *LONG, "run.hang_minutes=1.0", f"cluster.exclude={away}")
    run.wait_step(20)
    node = nodes_of(run)[rank]
    slurm_box.cut(box, node)
    try:
        run.wait_done(seconds=NIGHT_S)
    finally:
        slurm_box.heal(box, node)
    return run


def twenty(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "twenty")
    chance = random.Random(1)
    low = ("cluster.partition=low", "cluster.options={nodelist: 'node[8-9]'}")
    run.submit("train", *LONG, *low, "run.hang_minutes=0.5", "run.max_restarts=30")
    for start in range(20):
        run.wait_step(5 + 10 * start + chance.randrange(5))
        kind = chance.choice(KINDS)
        rank = chance.randrange(2)
        if kind == "preempt":
            call_prod("node[8-9]")
        elif kind in ("lose_node", "cut"):
            node = nodes_of(run)[rank]
            hurt, mend = {
                "lose_node": (slurm_box.kill, slurm_box.start),
                "cut": (slurm_box.cut, slurm_box.heal),
            }[kind]
            hurt(box, node)
            wait(
                "the loss of the node",
                lambda: ask("squeue", "-h", "-j", run.job, "-o", "%T").strip() != "RUNNING",
            )
            mend(box, node)
        elif kind in ("kill_rank", "stop_rank"):
            run.signal_rank(rank, signal.SIGKILL if kind == "kill_rank" else signal.SIGSTOP)
        else:
            run.signal_all(signal.SIGUSR2 if kind == "user_signal" else signal.SIGTERM)
        wait(f"the end of start {start}", lambda start=start: len(run.ends) > start)
    run.wait_done(seconds=NIGHT_S)
    return run


CASES: dict[str, Callable[[Path, Path], ClusterRun]] = {
    "nothing": nothing,
    "time_limit": time_limit,
    "cut_link_0": partial(cut_link, 0),
    "cut_link_1": partial(cut_link, 1),
    "twenty": twenty,
}


@pytest.fixture(scope="module")
def finished(slurm: Path, work: Path):
    """Return the future run of each case; the runs share the cluster, each on its own nodes."""
    with ThreadPoolExecutor(len(CASES)) as pool:
        yield {name: pool.submit(case, work, slurm) for name, case in CASES.items()}


def test_a_time_limit_costs_no_step(finished: dict[str, Future[ClusterRun]]):
    run = finished["time_limit"].result()
    assert [end.kind for end in run.ends][-1] == "done"
    assert len(run.ends) > 1
    assert {end.kind for end in run.ends[:-1]} == {"stopped"}
    assert run.steps_logged() == list(range(1, NUM_STEPS + 1))
    assert_same_bits(run, finished["nothing"].result())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_cut_link_moves_the_run_and_fences_the_rank_behind_it(
    rank: int, finished: dict[str, Future[ClusterRun]]
):
    run = finished[f"cut_link_{rank}"].result()
    assert {end.kind for end in run.ends} & {"lost", "failed"}
    assert_same_bits(run, finished["nothing"].result())


def test_twenty_disturbances_do_not_change_the_bits(finished: dict[str, Future[ClusterRun]]):
    run = finished["twenty"].result()
    assert len(run.ends) > 20
    assert_same_bits(run, finished["nothing"].result())
