"""Two users who are not root share a folder of runs and a staging folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_actions import ClusterRun, wait
from slurm_users import FIRST_UID, User

from launch import record

pytestmark = pytest.mark.cluster
SHARED_UMASK = "002"
PRIVATE_UMASK = "027"
LONG = "cluster.nodes=1 train.epochs=1000 train.evaluate_every=1000"


@pytest.fixture(scope="module")
def team(installed: Path, work: Path) -> Iterator[Path]:
    """Return a folder of the group with recipe, dataset and cluster file, and a staging folder."""
    folder = installed / "team"
    shutil.copytree(work / "data", folder / "data")
    shutil.copy(work / "tiny.yaml", folder)
    scratch = installed / "scratch"
    scratch.mkdir(mode=0o777)
    scratch.chmod(0o1777)  # as /tmp on a node: everyone may create files, and remove their own
    cluster = (work / "box.yaml").read_text()
    staging = f"staging: {{dir: {scratch / 'tin'}, keep_free: 0%}}\n"
    (folder / "box.yaml").write_text(cluster + staging)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, FIRST_UID, FIRST_UID)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    yield folder
    for name in ("alice", "bob"):
        User(installed, name, folder).run(f"scancel -u {name}")


@pytest.fixture(scope="module")
def alice(installed: Path, team: Path) -> User:
    """Return the user who submits first."""
    return User(installed, "alice", team, SHARED_UMASK)


@pytest.fixture(scope="module")
def bob(installed: Path, team: Path) -> User:
    """Return a user of the same group."""
    return User(installed, "bob", team, SHARED_UMASK)


@pytest.fixture(scope="module")
def shared(team: Path, alice: User) -> ClusterRun:
    """Return a run at which a job of the first user works."""
    run = ClusterRun(team, "shared")
    submit = "tin submit train tiny.yaml --run shared --cluster box.yaml data.dataset=data"
    alice.told(f"{submit} {LONG}")
    run.wait_step(2)
    return run


def test_another_user_sees_that_a_job_works_on_the_run(shared: ClusterRun, bob: User):
    told = bob.told("tin status shared")
    assert f"running  {shared.job}" in told
    assert "job of user alice" in told
    told = bob.told("tin submit train --run shared", code=2)
    assert "has queued or running jobs" in told
    assert "of user alice" in told
    told = bob.told("tin cancel shared", code=1)
    assert "of user alice" in told
    assert "is not cancelled" in told
    assert "cancelled" not in [end.kind for end in shared.ends]
    assert "running" in bob.told("tin status shared")


def test_another_user_resumes_the_run_and_reuses_the_copies_of_shards(
    shared: ClusterRun, alice: User, bob: User, installed: Path
):
    copies = _copies(installed / "scratch")
    assert any(path.suffix == ".tar" for path in copies)
    assert f"{shared.job} (train)" in alice.told("tin cancel shared")
    wait("the end of the first job", lambda: not alice.told("squeue -h").strip())
    step = shared.step

    bob.told("tin submit train --run shared")
    shared.wait_step(step + 2)
    assert "resumed in epoch" in shared.log
    assert [job.user for job in record.jobs(shared.path)] == ["alice", "bob"]
    assert "job of user bob" in alice.told("tin status shared")
    assert _copies(installed / "scratch") == copies
    assert f"{shared.job} (train)" in bob.told("tin cancel shared")


def test_all_files_of_a_run_follow_the_umask(shared: ClusterRun, team: Path, alice: User):
    assert not [path for path in shared.path.rglob("*") if not _mode(path) & 0o020]
    private = User(alice.box, "alice", team, PRIVATE_UMASK)
    submit = "tin submit train tiny.yaml --run private --cluster box.yaml data.dataset=data"
    private.told(f"{submit} {LONG} 'cluster.options={{hold: true}}'")
    files = list((team / "private").rglob("*"))
    assert files
    assert not [path for path in files if _mode(path) & 0o027]


def test_a_private_run_does_not_hide_the_others(shared: ClusterRun, team: Path, bob: User):
    (team / "private").mkdir(exist_ok=True)
    (team / "private").chmod(0o700)
    told = bob.told(f"tin status {team}")
    assert "shared" in told
    assert f"{team / 'private'} is left out: Permission denied" in told


def _copies(scratch: Path) -> dict[Path, tuple[int, int]]:
    """Return the staged shards, each with its number on the disk and its time of change."""
    found = {path: path.lstat() for path in scratch.rglob("*.*") if path.name != ".lock"}
    return {path: (facts.st_ino, facts.st_mtime_ns) for path, facts in found.items()}


def _mode(path: Path) -> int:
    return path.stat().st_mode
