"""Chains, sweeps, arrays, restarts and failures on a real Slurm."""

import csv
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_actions import (
    STEP,
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

pytestmark = pytest.mark.cluster
ALONE = ("cluster.nodes=1",)
SHORT = ("train.epochs=1", "train.evaluate_every=1")


def failing_chain(work: Path, box: Path) -> ClusterRun:
    """Remove the dataset after the submission, which checks it, and before the first job."""
    run = ClusterRun(work, "failing_chain")
    dataset = work / "vanishing"
    shutil.copytree(work / "data", dataset)
    late = "cluster.setup=['sleep 10']"
    run.submit("train,test,report", *ALONE, late, f"data.dataset={dataset}")
    shutil.rmtree(dataset)
    wait_ended(run)
    return run


def sweep(work: Path, box: Path) -> tuple[ClusterRun, int]:
    run = ClusterRun(work, "sweep")
    lists = ("optim.lr=0.01,0.02", "train.seed=0,1,2")
    run.submit("train,report", *ALONE, *SHORT, "cluster.parallel=2", "run.check_node=false", *lists)
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, sum(state == "RUNNING" for state in queue("sweep-train").values()))
        return not queue("sweep")

    wait("the sweep", over)
    return run, most


def shard_array(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "shard_array")
    slow = "cluster.setup=['sleep 5']"  # leaves time for the requeue
    run.submit("shard", *ALONE, f"data.dataset={work / 'parts'}", slow)
    part = f"{record.jobs(run.path)[1].id}"
    wait("part 1", lambda: queue("shard_array").get(part) == "RUNNING")
    ask("scontrol", "requeue", part)
    run.wait_done("merge")
    return run


def chain_of_three(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "chain_of_three")
    run.submit("train", *ALONE, "cluster.restart=chain:3")
    for job in record.jobs(run.path)[:2]:
        log = job.log_file()
        wait("steps", lambda log=log: log.exists() and len(STEP.findall(log.read_text())) > 2)
        ask("scancel", "--signal=USR2", job.id)  # as Slurm sends it before the time limit
        wait("its end", lambda job=job: job.id not in queue())
    run.wait_done()
    wait_ended(run)
    return run


def two_nodes_then_one(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "two_then_one")
    run.submit("train", "train.epochs=2", "train.evaluate_every=2")
    run.wait_step(3)
    cancel([run.path])  # `tin cancel` takes long to import, and the run is short
    wait_ended(run)
    run.submit("train", *ALONE, "train.epochs=2", "train.evaluate_every=2")
    run.wait_done()
    return run


def unknown_master(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "unknown_master")
    run.submit("train", "cluster.setup=['export MASTER_ADDR=nowhere.invalid']")
    wait_ended(run)
    return run


def bad_node(work: Path, box: Path) -> ClusterRun:
    """Make the run folder read-only on node8, except for its job/ folder."""
    run = ClusterRun(work, "bad_node")
    job = run.path / "job"
    job.mkdir(parents=True)
    daemon = (box / "run/slurmd-node8.pid").read_text().strip()
    inside = ["nsenter", "--mount", "--root", "--target", daemon]
    for words in (["--bind", run.path, run.path], ["--bind", job, job]):
        ask(*inside, "mount", *words)
    ask(*inside, "mount", "-o", "remount,bind,ro", run.path)
    run.submit("train", *SHORT, "cluster.exclude=node[1-6]")
    run.wait_done()
    ask(*inside, "umount", "-R", run.path)
    return run


def full_disk(work: Path, box: Path) -> ClusterRun:
    run = ClusterRun(work, "full_disk")
    run.path = box / "small" / "run"
    run.submit("train", *ALONE)
    wait_ended(run)
    return run


def two_by_two(work: Path, box: Path) -> tuple[ClusterRun, ClusterRun]:
    exact = ("train.bn=frozen", "model.dropout=0.0", "train.epochs=2", "train.evaluate_every=2")
    many = ClusterRun(work, "two_by_two")
    one = ClusterRun(work, "one_process")
    many.submit("train", "cluster.tasks_per_node=2", *exact)
    many.wait_done()
    tin("train", work / "tiny.yaml", "--run", one.path, *exact)
    return many, one


def own_scripts(work: Path, box: Path) -> dict[str, ClusterRun]:
    """Train once with torchrun and once with srun, from the user's own batch scripts."""
    runs = {"torchrun": ClusterRun(work, "own_torchrun"), "srun": ClusterRun(work, "own_srun")}
    python = sys.executable
    words = {
        "torchrun": f"srun --ntasks-per-node=1 {python} -m torch.distributed.run --nnodes=2"
        " --nproc-per-node=1 --rdzv-backend=c10d --rdzv-id=$SLURM_JOB_ID"
        " --rdzv-endpoint=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1):29400"
        " -m launch --",
        "srun": f"srun {python} -m launch",
    }
    for name, run in runs.items():
        script = work / f"{name}.sh"
        train = f"train {work / 'tiny.yaml'} --run {run.path} {' '.join(SHORT)}"
        script.write_text(
            f"#!/bin/bash\n#SBATCH -N2 --ntasks-per-node=1 -c1 --mem=3G -o {work / name}.log\n"
            f"{words[name]} {train}\n"
        )
        ask("sbatch", script)
        wait(f"{name}.sh", (run.path / "job" / "DONE").exists)
    return runs


SCENES: dict[str, Callable[[Path, Path], object]] = {
    scene.__name__: scene
    for scene in (
        unknown_master,
        chain_of_three,
        shard_array,
        full_disk,
        bad_node,
        two_by_two,
        two_nodes_then_one,
        own_scripts,
        sweep,
        failing_chain,
    )
}


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest, slurm: Path, work: Path):
    """Return the future outcome of each scene that the chosen tests use."""
    yield from started_scenes(request, SCENES, work, slurm)


def test_the_stages_after_a_failed_one_do_not_stay_queued(scenes: Scenes):
    run = scenes["failing_chain"].result()
    jobs = {job.stage: job.id for job in record.jobs(run.path)}
    states = {stage: accounted(job_id, "State") for stage, job_id in jobs.items()}
    assert states["train"] == ["FAILED"]
    assert "COMPLETED" not in states["test"] + states["report"]
    assert "vanishing" in run.ends[-1].text
    told = tin("status", run.path)
    assert "gave up" in told
    assert "vanishing" in told


def test_a_sweep_of_six_runs_two_jobs_at_once(scenes: Scenes):
    run, most = scenes["sweep"].result()
    names = {path.name for path in run.path.glob("optim.lr-*")}
    assert len(names) == 6
    assert "optim.lr-0.02_train.seed-1" in names
    assert most == 2
    report = (run.path / "report" / "results.csv").read_text()
    assert report.count("\n") == 1 + 6
    assert tin("status", run.path).count("done") >= 6


def test_a_shard_array_with_a_requeued_part_gives_the_bytes_of_one_process(
    scenes: Scenes, work: Path
):
    scenes["shard_array"].result()
    for kind in ("*.tar", "*.npy", "*.csv"):
        names = [path.name for path in (work / "data").glob(kind)]
        assert names or kind == "*.csv"
        for name in names:
            assert (work / "parts" / name).read_bytes() == (work / "data" / name).read_bytes()


def test_a_job_of_a_chain_resumes_where_the_previous_one_stopped(scenes: Scenes):
    run = scenes["chain_of_three"].result()
    assert [end.kind for end in run.ends] == ["stopped", "stopped", "done"]
    assert run.steps_logged() == list(range(1, 25))
    assert len(record.jobs(run.path)) == 3


def test_a_run_of_two_nodes_resumes_on_one_with_a_warning(scenes: Scenes):
    run = scenes["two_nodes_then_one"].result()
    assert "comes from 2 ranks, now there are 1" in run.log
    assert "no longer bit-equal" in run.log
    assert run.steps_logged() == list(range(1, 13))  # a cancelled job saves first


def test_a_run_is_given_up_after_three_starts_with_an_unknown_master(scenes: Scenes):
    run = scenes["unknown_master"].result()
    assert [end.kind for end in run.ends] == ["failed", "failed", "gave up"]
    assert "cannot resolve rank 0's address nowhere.invalid" in run.ends[-1].text
    assert "3 failures with no step between" in run.ends[-1].text


def test_an_bad_node_is_named_and_left(scenes: Scenes):
    run = scenes["bad_node"].result()
    assert [(end.kind, end.nodes) for end in run.ends] == [("failed", ["node8"]), ("done", [])]
    assert f"node8 cannot write {run.path}: Read-only file system" in run.ends[0].text
    assert run.steps_logged() == list(range(1, 7))


def test_a_full_disk_keeps_the_earlier_checkpoint_and_is_reported(scenes: Scenes):
    run = scenes["full_disk"].result()
    assert run.ends[-1].kind == "gave up"
    assert "cannot write" in run.ends[-1].text
    assert [path.name[:13] for path in (run.path / "checkpoints").glob("step-*")] == [
        "step-00000004"
    ]


def test_two_nodes_with_two_ranks_have_the_losses_of_one_process(scenes: Scenes):
    many, one = (_losses(run) for run in scenes["two_by_two"].result())
    assert len(many) == 12
    assert many == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("name", ["torchrun", "srun"])
def test_batch_scripts_of_a_user_work(name: str, scenes: Scenes, work: Path):
    run = scenes["own_scripts"].result()[name]
    assert run.step == 6, (work / f"{name}.log").read_text()


def test_status_reads_the_run_folder_if_slurm_is_down(scenes: Scenes, slurm: Path, tmp_path: Path):
    run = scenes["chain_of_three"].result()
    conf = (slurm / "etc/slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(conf.replace("SlurmctldPort=168", "SlurmctldPort=169"))
    told = tin("status", run.path, SLURM_CONF=str(tmp_path / "slurm.conf"))
    assert "Slurm does not answer" in told
    assert re.search(r"chain_of_three +train +done", told)


def test_logs_show_every_attempt(scenes: Scenes):
    run = scenes["chain_of_three"].result()
    told = tin("logs", run.path)
    assert told.count("=== job ") == 3
    assert "stopped by SIGUSR2" in told
    assert "train: already done" not in told


def _losses(run: ClusterRun) -> list[float]:
    with (run.path / "steps.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
