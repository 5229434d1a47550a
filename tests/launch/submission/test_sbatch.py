"""What sbatch gets and answers: the environment of the shell, and the number of the job."""

from pathlib import Path

import pytest

from launch.submission.sbatch import SbatchError, defaults_used, sbatch, submission_environment

SCRIPT = """\
#!/bin/bash
#SBATCH --partition=main
#SBATCH --mem=4GB
#SBATCH --no-requeue
#SBATCH --gres=gpu:2
"""
SHELL = {
    "HOME": "/root",
    "SLURM_CONF": "/etc/slurm.conf",
    "SBATCH_ACCOUNT": "vision",
    "SBATCH_PARTITION": "other",
    "SBATCH_MEM_PER_CPU": "1G",
    "SBATCH_REQUEUE": "1",
    "SBATCH_GPUS_PER_NODE": "8",
    "SBATCH_TIMELIMIT": "10",
    "RANK": "3",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "elsewhere",
    "MASTER_PORT": "1",
    "SLURM_JOB_ID": "7",
    "SLURM_MEM_PER_NODE": "100",
    "SLURMD_NODENAME": "node9",
    "TIN_STAGED": "/disk",
}


def test_the_environment_of_another_job_does_not_reach_a_job():
    assert submission_environment(SCRIPT, SHELL) == {
        "HOME": "/root",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "vision",
        "SBATCH_TIMELIMIT": "10",
    }


def test_a_default_of_sbatch_counts_only_where_the_script_is_silent():
    assert defaults_used(SCRIPT, SHELL) == {"SBATCH_ACCOUNT": "vision", "SBATCH_TIMELIMIT": "10"}


@pytest.mark.parametrize(
    "printed",
    [
        "9544171",
        "9544171;box",
        "Welcome to cluster 7, job 12 of today\n9544171\nhave 3 nice days",
        "sbatch wrapper 2.0: project 42\nSubmitted batch job 9544171",
    ],
)
def test_the_number_of_the_job_is_not_taken_from_a_greeting(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "printed").write_text(printed + "\n")
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ncat {tmp_path}/printed\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sbatch(SCRIPT, tmp_path / "job.sh") == "9544171"
    (tmp_path / "printed").write_text("accepted\n")
    with pytest.raises(SbatchError, match="expected the number of a job, found 'accepted"):
        sbatch(SCRIPT, tmp_path / "job.sh")
