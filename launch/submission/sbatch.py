"""Hands a batch script to sbatch: its files, its environment, and the number of the job."""

import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.files import write_text
from configs.load import STAGED, ConfigError
from launch.jobs.job import LOGS, StageJob, task_file

KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables of Slurm that say which cluster is meant, and not which job this is."""
FOREIGN = re.compile(
    r"(SLURM_|SLURMD_|SUBMITIT_|TORCHELASTIC_|MASTER_|PMI_|PMIX_|OMPI_)"
    r"|(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_RANK|NODE_RANK|TIN_COMMIT)$"
)
"""Matches variables that belong to another job, such as the one that `tin submit` runs in."""
DEFAULTS = "SBATCH_"
OPTIONS = {
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_MEM_PER_CPU": "mem",
    "SBATCH_MEM_PER_GPU": "mem",
    "SBATCH_NO_REQUEUE": "requeue",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_GRES": "gpus-per-node",
    "SBATCH_GPUS": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-node",
}
"""Variables of sbatch whose names are not those of the option that they set or exclude."""
IMPLIED = {"no-requeue": "requeue", "gres": "gpus-per-node"}
NUMBER = re.compile(r"^(\d+)(;\S+)?$", re.MULTILINE)
"""Matches what `sbatch --parsable` prints: the number of the job and, after `;`, its cluster."""
SENTENCE = re.compile(r"^Submitted batch job (\d+)", re.MULTILINE)


class SbatchError(ConfigError):
    """sbatch rejects a job; holds what it printed."""


def new_task_files(logs: Path, jobs: Sequence[StageJob]) -> str:
    """Write what each job, or each task of an array, executes; return the path of these files.

    The path has no ending: `launch.jobs.job.task_file` completes it.
    """
    logs.mkdir(parents=True, exist_ok=True)
    tasks = str(logs / f"job-{secrets.token_hex(6)}")
    for index, job in enumerate(jobs):
        write_text(task_file(tasks, str(index)), json.dumps(asdict(job)))
    return tasks


def sbatch(script: str, file: Path) -> str:
    """Submit a batch script, which is kept in `file`; return the number of the job.

    Raises:
        SbatchError: sbatch rejects the job, or prints no number.
    """
    write_text(file, script)
    environment = submission_environment(script, os.environ)
    done = _run(["sbatch", "--parsable", str(file)], environment)
    if done.returncode:
        raise SbatchError(done.stderr or done.stdout)
    # A wrapper of sbatch may print a greeting with numbers in it, before or after.
    found = NUMBER.findall(done.stdout) or [(n, "") for n in SENTENCE.findall(done.stdout)]
    if len(found) != 1:
        raise SbatchError(f"sbatch: error: expected the number of a job, found {done.stdout!r}")
    return found[0][0]


def test_only(script: str) -> str:
    """Return what `sbatch --test-only` answers to a batch script.

    Raises:
        SbatchError: the cluster would reject it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        environment = submission_environment(script, os.environ)
        done = _run(["sbatch", "--test-only", file.name], environment)
    if done.returncode:
        raise SbatchError(done.stderr)
    return done.stderr.strip()


def submission_environment(script: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for sbatch, which the job inherits.

    Variables of another job are left out, and the defaults of sbatch for which the script has an
    option of its own: sbatch would prefer them to the script.
    """
    used = defaults_used(script, environment)
    return {
        name: value
        for name, value in environment.items()
        if name in KEPT
        or name in used
        or not (FOREIGN.match(name) or name.startswith(DEFAULTS) or name in (STAGED, LOGS))
    }


def defaults_used(script: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables `SBATCH_*` that add an option about which the script is silent."""
    options = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    options |= {IMPLIED[option] for option in options & set(IMPLIED)}
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(DEFAULTS) and _option(name) not in options
    }


def _option(variable: str) -> str:
    name = variable.removeprefix(DEFAULTS).lower().replace("_", "-")
    return OPTIONS.get(variable, name)


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=environment)
