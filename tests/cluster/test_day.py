"""Disturbances of a day on a cluster: nothing is stuck, and no healthy node is blamed."""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_actions import (
    ClusterRun,
    Scenes,
    accounted,
    ask,
    queue,
    started_scenes,
    tin,
    wait,
    wait_ended,
)

from launch import record
from launch.live_jobs import cancel
from launch.submission.plan import make_submission, submit

pytestmark = pytest.mark.cluster
ALONE = ("cluster.nodes=1",)
SHORT = ("train.epochs=1", "train.evaluate_every=1")
LONG = ("train.epochs=100", "train.evaluate_every=100")
NUM_MOMENTS = 5
NUM_ROUNDS = 20


def python_that(box: Path, name: str, action: str) -> str:
    """Return a Python that does something else than the stage; it finds no Slurm commands."""
    path = box / name
    text = f'#!/bin/sh\ncase "$*" in *launch.jobs.rank*) {action} ;; esac\n'
    path.write_text(f'{text}PATH=/nowhere exec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return f"cluster.python={path}"


def container_array(work: Path, box: Path) -> ClusterRun:
    """Stop the last task of an array, whose number is also that of the array."""
    run = ClusterRun(work, "container_array")
    lists = ("train.seed=0,1,2", "cluster.parallel=1")
    run.submit("train", *ALONE, *SHORT, f"cluster.python={box}/python", *lists)
    last = ClusterRun(work, "container_array/train.seed-2")
    last.wait_step(2)
    last.signal_all(signal.SIGUSR2)
    last.wait_done()
    return run


def longer_than_its_limit(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "longer_than_its_limit")
    slow = python_that(box, "slow", "exec sleep 300")
    run.submit("train", *ALONE, slow, "cluster.time_min=1", "cluster.signal_s=30")
    wait_ended(run)
    return run


def too_much_memory(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "too_much_memory")
    eat = f"exec {sys.executable} -c 'import time; x = b\"x\" * 700_000_000; time.sleep(120)'"
    run.submit("train", *ALONE, python_that(box, "hungry", eat), "cluster.mem_gb=0.3")
    wait_ended(run)
    return run


def full_tmpfs(work: Path, box: Path) -> ClusterRun:
    """Stop a run while no byte can be written to its folder."""
    run = ClusterRun(work, "full_tmpfs")
    run.path = box / "small_too" / "full_tmpfs"
    run.submit("train", *ALONE, "model.arch=resnet18", "train.epochs=2")
    run.wait_step(2)
    filler = box / "small_too" / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            pass
    run.signal_all(signal.SIGUSR2)
    wait("the end of the first start", lambda: queue().get(run.job) != "RUNNING")
    filler.unlink()
    wait_ended(run)
    return run


def random_moments(work: Path, box: Path) -> list[ClusterRun]:
    """Send a stop signal at random moments from 0.2 s after a rank starts."""
    chance = random.Random(3)
    moments = {
        f"moments_{n}": [0.2 + 12 * chance.random() ** 2 for _ in range(NUM_MOMENTS)]
        for n in range(20 // NUM_MOMENTS)
    }

    def disturb(name: str) -> ClusterRun:
        run = ClusterRun(work, name)
        run.submit("train", *ALONE, *LONG, "cluster.tasks_per_node=2", "train.evaluate_every=1")
        for start, delay in enumerate(moments[name]):
            wait(f"start {start} of {name}", run.ranks)
            time.sleep(delay)
            run.signal_all(signal.SIGUSR2 if start % 2 else signal.SIGTERM)
            wait(f"end {start} of {name}", lambda start=start: len(run.ends) > start)
            wait(f"the ranks of {name}", lambda: not run.ranks())
        cancel([run.path])
        return run

    with ThreadPoolExecutor(len(moments)) as pool:
        return list(pool.map(disturb, moments))


def environment(work: Path, box: Path) -> tuple[ClusterRun, str]:
    """Submit from a shell inside of another job, with defaults of sbatch."""
    run = ClusterRun(work, "environment")
    shell = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "nowhere.invalid",
        "MASTER_PORT": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "3",
        "SLURM_STEP_ID": "0",
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_MEM_PER_CPU": "1",
        "SLURM_CPUS_PER_TASK": "3",
        "SBATCH_PARTITION": "nowhere",
        "SBATCH_QOS": "normal",
    }
    options = ["--run", run.path, "--cluster", work / "box.yaml"]
    told = tin("submit", "train", work / "tiny.yaml", *options, *SHORT, **shell)
    run.wait_done()
    return run, told


def two_at_once(work: Path, box: Path) -> list[tuple[list[object], float]]:
    """Submit each run twice at the same instant; return the outcomes and the recorded setting."""
    held = ["cluster.options={hold: true}", "cluster.nodes=1"]

    def outcome(run: ClusterRun, lr: float) -> object:
        recipe, cluster = str(work / "tiny.yaml"), str(work / "box.yaml")
        settings = [*held, f"optim.lr={lr}"]
        submission = make_submission("train", recipe, run.path, cluster, settings)
        try:
            submit(submission)
        except Exception as error:
            return str(error)
        return lr

    found = []
    with ThreadPoolExecutor(2) as pool:
        for number in range(NUM_ROUNDS):
            run = ClusterRun(work, f"two_at_once_{number}")
            outcomes = list(pool.map(outcome, [run, run], [0.01, 0.02]))
            recipe = (run.path / "job" / "recipe.yaml").read_text()
            found.append((outcomes, float(recipe.partition("lr: ")[2].split()[0])))
            cancel([run.path])
    return found


SBATCH = """\
#!/bin/sh
echo "Welcome to cluster 7, today with 12 jobs"
/usr/bin/sbatch "$@" || exit
case "$*" in *--test-only*) ;; *) {mount} ;; esac
"""


def unrecorded(work: Path, box: Path) -> dict[str, str]:
    """Let the file of jobs become read-only before or just after sbatch."""
    told = {}
    for when in ("before", "after"):
        run = ClusterRun(work, f"unrecorded_{when}")
        jobs = run.path / "job" / "jobs.jsonl"
        jobs.parent.mkdir(parents=True)
        jobs.touch()
        (box / when).mkdir()
        mount = f"mount --bind {jobs} {jobs} && mount -o remount,bind,ro {jobs}"
        if when == "before":
            ask("sh", "-c", mount)
        wrapper = box / when / "sbatch"
        wrapper.write_text(SBATCH.format(mount=mount if when == "after" else ":"))
        wrapper.chmod(0o755)
        options = ["--run", run.path, "--cluster", work / "box.yaml", *ALONE]
        path = f"{box / when}:{os.environ['PATH']}"
        told[when] = tin("submit", "train", work / "tiny.yaml", *options, code=2, PATH=path)
        wait("no job", lambda when=when: not queue(f"unrecorded_{when}"))
        ask("umount", jobs)
    return told


def cancelled_array(work: Path, box: Path) -> ClusterRun:
    """Cancel a sweep while no task of it has started."""
    run = ClusterRun(work, "cancelled_array")
    held = "cluster.options={hold: true}"
    run.submit("train,report", *ALONE, held, "train.seed=0,1", "cluster.parallel=2")
    array_id = record.jobs(run.path / "train.seed-0")[0].id.partition("_")[0]
    ask("scancel", array_id)
    wait("the end of the array", lambda: not queue("cancelled_array-train"))
    return run


SCENES: dict[str, Callable[[Path, Path], object]] = {
    scene.__name__: scene
    for scene in (
        random_moments,
        container_array,
        longer_than_its_limit,
        too_much_memory,
        full_tmpfs,
        environment,
        unrecorded,
        cancelled_array,
        two_at_once,
    )
}


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest, slurm: Path, work: Path):
    """Return the future outcome of each scene that the chosen tests use."""
    yield from started_scenes(request, SCENES, work, slurm)


def test_a_container_requeues_its_own_task_of_an_array_only(scenes: Scenes):
    run = scenes["container_array"].result()
    jobs = [record.jobs(run.path / f"train.seed-{seed}")[0].id for seed in range(3)]
    assert [len(accounted(job, "State")) for job in jobs] == [1, 1, 2]


def test_a_stage_that_is_longer_than_its_time_limit_is_given_up(scenes: Scenes):
    run = scenes["longer_than_its_limit"].result()
    assert [end.kind for end in run.ends] == ["stopped", "stopped", "gave up"]
    assert "raise time_min" in run.ends[-1].text
    assert not any(end.nodes for end in run.ends)


def test_a_job_that_exceeds_its_memory_is_named_and_excludes_no_node(scenes: Scenes):
    run = scenes["too_much_memory"].result()
    assert run.ends
    assert all("raise mem_gb" in end.text for end in run.ends), run.ends
    assert not any(end.nodes for end in run.ends)
    assert "raise mem_gb" in tin("status", run.path)


def test_a_full_disk_leaves_a_requeued_job_or_a_reason(scenes: Scenes):
    run = scenes["full_tmpfs"].result()
    told = tin("status", run.path)
    # The disk is too small for two checkpoints, so the run may not complete on it.
    assert re.search("train +done", told) or "cannot write" in told


def test_a_signal_at_any_moment_is_no_failure(scenes: Scenes):
    ends = [end for run in scenes["random_moments"].result() for end in run.ends[:NUM_MOMENTS]]
    assert [end.kind for end in ends] == ["stopped"] * 20, ends
    assert not any(end.nodes for end in ends)


def test_the_environment_of_the_shell_does_not_change_a_job(scenes: Scenes):
    run, told = scenes["environment"].result()
    assert "nodes 2, ranks 2" in run.log
    assert "because the cluster file is silent: SBATCH_QOS=normal" in told
    assert "SBATCH_PARTITION" not in told
    assert accounted(run.job, "Partition") == ["main"]


def test_of_two_submissions_at_once_one_wins_and_the_other_is_told(scenes: Scenes):
    for outcomes, recorded in scenes["two_at_once"].result():
        winners = [lr for lr in outcomes if isinstance(lr, float)]
        assert winners == [recorded], outcomes
        (told,) = (text for text in outcomes if isinstance(text, str))
        assert "has queued or running jobs" in told


def test_a_job_that_cannot_be_recorded_does_not_run(scenes: Scenes):
    told = scenes["unrecorded"].result()
    assert "cannot be recorded, so it is not submitted" in told["before"]
    assert "cannot be recorded, so it is not submitted" in told["after"]


def test_the_tasks_of_a_cancelled_array_are_not_queued(scenes: Scenes):
    run = scenes["cancelled_array"].result()

    def are_cancelled() -> bool:
        states = re.findall(r"^train.seed-\d +train +(\w+)", tin("status", run.path), re.MULTILINE)
        assert "waiting" not in states
        return states == ["cancelled", "cancelled"]

    wait("sacct", are_cancelled)
    # The report of the sweep is still queued, and belongs to no run of it.
    assert re.search(r"^cancelled_array +report +pending", tin("status", run.path), re.MULTILINE)
    assert "(report)" in tin("cancel", run.path)
