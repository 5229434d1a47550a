"""Interrupted jobs: each run completes by itself, with the same bits as an undisturbed run."""

import csv
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
import slurm_box
from cluster_actions import (
    ClusterRun,
    Scenes,
    accounted,
    ask,
    assert_same_bits,
    call_prod,
    started_scenes,
    tin,
    wait,
)

pytestmark = pytest.mark.cluster
ON_TWO = "cluster.options={nodelist: 'node[1-2]'}"
ON_PREEMPTED = ("cluster.partition=low", "cluster.options={nodelist: 'node[6-7]'}")
ON_THREE = "cluster.exclude=node[4-9]"
ON_OTHER_THREE = "cluster.exclude=node[1-2],node[6-9]"
ON_LAST = ("cluster.partition=low", "cluster.options={nodelist: 'node[8-9]'}")
STAGED = "cluster.staging={dir: '%s/$SLURMD_NODENAME', keep_free: '0%%'}"
CONTAINER = "cluster.python=%s/python"
"""A Python that finds no Slurm commands, as in a container."""
NUM_STEPS = 24


def preempt(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    call_prod("node[6-7]")


def five_times(run: ClusterRun, box: Path) -> None:
    """Disturb a run at five random moments, each a few steps after the previous one."""
    chance = random.Random(0)
    for start in range(5):
        run.wait_step(2 + 3 * start + chance.randrange(3))
        kind = chance.choice(["preempt", "user_signal", "terminate", "kill_rank"])
        if kind == "preempt":
            call_prod("node[8-9]")
        elif kind == "kill_rank":
            run.signal_rank(chance.randrange(2), signal.SIGKILL)
        else:
            run.signal_all(signal.SIGUSR2 if kind == "user_signal" else signal.SIGTERM)
        wait("the end of this start", lambda start=start: len(run.ends) > start)


def user_signal(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    run.signal_all(signal.SIGUSR2)


def terminate(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    run.signal_all(signal.SIGTERM)


def kill_rank(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    run.signal_rank(1, signal.SIGKILL)


def stop_rank(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    run.signal_rank(1, signal.SIGSTOP)


def lose_node(run: ClusterRun, box: Path) -> None:
    run.wait_step(5)
    nodes = ask("squeue", "-h", "-j", run.job, "-o", "%N").strip()
    last = ask("scontrol", "show", "hostnames", nodes).split()[-1]
    slurm_box.kill(box, last)


CASES: dict[str, tuple[Callable[[ClusterRun, Path], None], tuple[str, ...]]] = {
    "preempt": (preempt, ON_PREEMPTED),
    "user_signal": (user_signal, (ON_TWO, STAGED)),
    "terminate": (terminate, (ON_TWO, CONTAINER)),
    "kill_rank": (kill_rank, (ON_THREE,)),
    "stop_rank": (stop_rank, (ON_THREE, "run.hang_minutes=0.75")),
    "lose_node": (lose_node, (ON_OTHER_THREE, "cluster.gpus_per_node=1")),
    "five_times": (five_times, ON_LAST),
}


def disturbed_run(name: str, work: Path, box: Path) -> ClusterRun:
    """Submit the run of a case, disturb it, and wait until it is complete."""
    disturb, settings = CASES[name]
    run = ClusterRun(work, name)
    words = [word.replace("%s", str(box)).replace("%%", "%") for word in settings]
    run.submit("train", *words)
    disturb(run, box)
    run.wait_done()
    return run


@pytest.fixture(scope="module")
def disturbed(
    request: pytest.FixtureRequest, slurm: Path, work: Path, undisturbed: ClusterRun
) -> Iterator[Scenes]:
    """Return the future run of each case that the chosen tests use; all of them run at once."""
    scenes = {name: partial(disturbed_run, name) for name in CASES}
    yield from started_scenes(request, scenes, work, slurm, at_once=len(CASES))


@pytest.mark.parametrize("name", CASES)
def test_a_disturbed_run_completes_with_the_same_bits(
    name: str, disturbed: dict[str, Future[ClusterRun]], undisturbed: ClusterRun
):
    run = disturbed[name].result()
    undisturbed.wait_done()
    assert len(run.ends) == (6 if name == "five_times" else 2), run.ends
    assert run.step == NUM_STEPS
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize("name", ["preempt", "user_signal", "terminate"])
def test_a_signal_costs_no_step(name: str, disturbed: dict[str, Future[ClusterRun]]):
    run = disturbed[name].result()
    assert run.ends[0].kind == "stopped"
    assert run.steps_logged() == list(range(1, NUM_STEPS + 1))


@pytest.mark.parametrize("name", ["kill_rank", "stop_rank", "lose_node"])
def test_a_failure_costs_the_steps_since_the_last_checkpoint(
    name: str, disturbed: dict[str, Future[ClusterRun]]
):
    run = disturbed[name].result()
    assert run.ends[0].kind in ("failed", "lost")
    repeated = len(run.steps_logged()) - NUM_STEPS
    assert 0 <= repeated <= 4  # run.checkpoint_steps


def test_a_killed_rank_and_its_node_are_named(disturbed: dict[str, Future[ClusterRun]]):
    end = disturbed["kill_rank"].result().ends[0]
    assert "rank 1 on node2" in end.text
    assert end.nodes == ["node2"]


def test_the_next_start_avoids_the_node_of_a_dead_rank(disturbed: dict[str, Future[ClusterRun]]):
    run = disturbed["kill_rank"].result()
    first, second = accounted(run.job, "NodeList")
    assert "node2" in ask("scontrol", "show", "hostnames", first).split()
    assert "node2" not in ask("scontrol", "show", "hostnames", second).split()


def test_a_hang_leaves_the_stacks_of_all_ranks_that_could_write_them(
    disturbed: dict[str, Future[ClusterRun]],
):
    run = disturbed["stop_rank"].result()
    stacks = (run.path / "job/stacks-01-rank0.txt").read_text()
    assert "node1: no step for" in stacks
    assert "_train_step" in stacks
    assert run.ends[0].nodes == ["node2"]


def test_shards_were_read_from_the_disk_of_each_node(
    slurm: Path, disturbed: dict[str, Future[ClusterRun]]
):
    run = disturbed["user_signal"].result()
    assert "GB copied to" in run.log
    for node in ("node1", "node2"):
        copies = list((slurm / node).glob("tin-*/data/train-*.tar"))
        assert copies
        assert not any(copy.is_symlink() for copy in copies)


def test_gpu_hours_of_all_executions_reach_the_report(disturbed: dict[str, Future[ClusterRun]]):
    run = disturbed["lose_node"].result()
    elapsed = accounted(run.job, "ElapsedRaw")
    tin("report", run.path, "--out", run.path / "report")
    with (run.path / "report" / "results.csv").open() as file:
        hours = float(next(csv.DictReader(file))["gpu_hours"])
    assert len(elapsed) == 2
    assert hours == pytest.approx(2 * sum(map(int, elapsed)) / 3600)  # two nodes with a GPU each


def test_a_lost_node_is_named_and_not_used_again(
    slurm: Path, disturbed: dict[str, Future[ClusterRun]]
):
    run = disturbed["lose_node"].result()
    assert run.ends[0].text == f"{run.ends[0].nodes[0]} was lost"
    down = ask("sinfo", "-h", "-N", "-p", "main", "-t", "down", "-o", "%N").split()
    assert len(down) == 1
    assert down[0] not in ask("sacct", "-X", "-n", "-j", run.job, "-o", "NodeList%30")
    slurm_box.start(slurm, down[0])
    wait("the node", lambda: not ask("sinfo", "-h", "-N", "-p", "main", "-t", "down", "-o", "%N"))
