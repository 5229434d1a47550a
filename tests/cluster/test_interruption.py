"""What a cluster does to a job: the run ends complete by itself, and nothing shows in its bits."""

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import slurm_box
from hands import Run, ask, assert_same_bits, wait

pytestmark = pytest.mark.cluster
ON_TWO = "cluster.options={nodelist: 'node[1-2]'}"
ON_PREEMPTED = ("cluster.partition=low", "cluster.options={nodelist: 'node[6-7]'}")
ON_THREE = "cluster.exclude=node[4-7]"
ON_OTHER_THREE = "cluster.exclude=node[1-2],node[6-7]"
NUM_STEPS = 24


def preempt(run: Run, box: Path) -> None:
    run.wait_step(5)
    sleeper = ["--wrap", "sleep 5", "-o", "/dev/null"]
    ask("sbatch", "-p", "prod", "-w", "node[6-7]", "-N2", "-c4", "--mem=100", *sleeper)


def user_signal(run: Run, box: Path) -> None:
    run.wait_step(5)
    run.signal_all(signal.SIGUSR2)


def terminate(run: Run, box: Path) -> None:
    run.wait_step(5)
    run.signal_all(signal.SIGTERM)


def kill_rank(run: Run, box: Path) -> None:
    run.wait_step(5)
    run.signal_rank(1, signal.SIGKILL)


def stop_rank(run: Run, box: Path) -> None:
    run.wait_step(5)
    run.signal_rank(1, signal.SIGSTOP)


def lose_node(run: Run, box: Path) -> None:
    run.wait_step(5)
    nodes = ask("squeue", "-h", "-j", run.job, "-o", "%N").strip()
    last = ask("scontrol", "show", "hostnames", nodes).split()[-1]
    slurm_box.kill(box, last)


CASES: dict[str, tuple[Callable[[Run, Path], None], tuple[str, ...]]] = {
    "preempt": (preempt, ON_PREEMPTED),
    "user_signal": (user_signal, (ON_TWO,)),
    "terminate": (terminate, (ON_TWO,)),
    "kill_rank": (kill_rank, (ON_THREE,)),
    "stop_rank": (stop_rank, (ON_THREE, "run.hang_minutes=0.5")),
    "lose_node": (lose_node, (ON_OTHER_THREE,)),
}


@pytest.fixture(scope="module")
def disturbed(slurm: Path, work: Path, undisturbed: Run):
    """Return each case's run, under way; they run side by side, since most of it is waiting."""

    def live(name: str) -> Run:
        disturb, settings = CASES[name]
        run = Run(work, name)
        run.submit("train", *settings)
        disturb(run, slurm)
        run.wait_done()
        return run

    with ThreadPoolExecutor(len(CASES)) as pool:
        yield {name: pool.submit(live, name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_disturbed_run_ends_complete_with_the_same_bits(
    name: str, disturbed: dict[str, Future[Run]], undisturbed: Run
):
    run = disturbed[name].result()
    undisturbed.wait_done()
    assert len(run.ends) == 2, run.ends
    assert run.step == NUM_STEPS
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize("name", ["preempt", "user_signal", "terminate"])
def test_a_signal_costs_no_step(name: str, disturbed: dict[str, Future[Run]]):
    run = disturbed[name].result()
    assert run.ends[0].kind == "stopped"
    assert run.steps_logged() == list(range(1, NUM_STEPS + 1))


@pytest.mark.parametrize("name", ["kill_rank", "stop_rank", "lose_node"])
def test_a_failure_costs_the_steps_since_the_last_checkpoint(
    name: str, disturbed: dict[str, Future[Run]]
):
    run = disturbed[name].result()
    assert run.ends[0].kind in ("failed", "lost")
    repeated = len(run.steps_logged()) - NUM_STEPS
    assert 0 <= repeated <= 4  # run.checkpoint_steps


def test_a_killed_rank_and_its_node_are_named(disturbed: dict[str, Future[Run]]):
    end = disturbed["kill_rank"].result().ends[0]
    assert "rank 1 on node2" in end.text
    assert end.nodes == ["node2"]


def test_a_hang_leaves_the_stacks_of_all_ranks_that_could_write_them(
    disturbed: dict[str, Future[Run]],
):
    run = disturbed["stop_rank"].result()
    stacks = (run.path / "job/stacks-01-rank0.txt").read_text()
    assert "node1: no step for" in stacks
    assert "_train_step" in stacks
    assert run.ends[0].nodes == ["node2"]


def test_a_lost_node_is_left(slurm: Path, disturbed: dict[str, Future[Run]]):
    run = disturbed["lose_node"].result()
    assert run.ends[0].text == f"{run.ends[0].nodes[0]} was lost"
    down = ask("sinfo", "-h", "-N", "-p", "main", "-t", "down", "-o", "%N").split()
    assert len(down) == 1
    assert down[0] not in ask("sacct", "-X", "-n", "-j", run.job, "-o", "NodeList%30")
    slurm_box.start(slurm, down[0])
    wait("the node", lambda: not ask("sinfo", "-h", "-N", "-p", "main", "-t", "down", "-o", "%N"))
