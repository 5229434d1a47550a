"""submitit's executors: the options of sbatch and srun, the batch script, and the submission."""

import contextlib
import getpass
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from configs.cluster import Cluster
from configs.load import ConfigError
from launch.errors import ASK
from launch.jobs.job import StageJob
from launch.jobs.srun_log import START

STREAMS = (0, 1, 2)
"""File descriptors of stdin, stdout and stderr."""
CHOICES = {
    "invalid partition": ["sinfo", "-h", "-o", "%R"],
    "invalid account": ["sacctmgr", "-nP", "show", "assoc", "user=$USER", "format=account"],
    "invalid qos": ["sacctmgr", "-nP", "show", "qos", "format=name"],
    "memory": ["sinfo", "-h", "-o", "%R %m MB a node"],
    "node configuration": ["sinfo", "-h", "-o", "%R: %D nodes, %c CPUs, %m MB, %G"],
    "node name": ["sinfo", "-h", "-o", "%N"],
    "feature": ["sinfo", "-h", "-o", "%R %f"],
}
"""Words of sbatch's errors, each with the command that lists the valid values."""


def submit_jobs(
    jobs: Sequence[StageJob],
    cluster: Cluster,
    name: str,
    logs: Path,
    code: Path,
    dependency: str = "",
) -> list[str]:
    """Submit jobs, several of them as one array, and return their numbers.

    Args:
        jobs: what each job, or each task of the array, runs.
        cluster: settings of the stage.
        name: name of the job; Slurm runs jobs of the same name one after the other.
        logs: folder of pickles and log files.
        code: folder where Python looks for packages first.
        dependency: sbatch's option, for example `afterok:12`.

    Raises:
        ConfigError: the cluster rejects the job; gives the reason and the valid values.
    """
    executor = make_executor(cluster, name, logs, code, dependency)
    try:
        with warnings.catch_warnings(action="ignore"), _quiet(cluster.executor):
            submitted = executor.submit_array(list(jobs))
    except FailedJobError as error:
        raise ConfigError(_rejection(str(error))) from None
    if cluster.executor == "debug":
        for job in submitted:
            failure = job.exception()  # runs the job; job.results() would start a debugger
            if failure:
                raise failure
    return [job.job_id for job in submitted]


def make_executor(
    cluster: Cluster, name: str, logs: Path, code: Path, dependency: str = ""
) -> submitit.AutoExecutor:
    """Return submitit's executor with all that the cluster file asks for."""
    if cluster.executor == "slurm" and not shutil.which("srun"):
        raise ConfigError(
            "srun was not found: submit from a login node of a Slurm cluster, or use --cluster"
            " local"
        )
    python = cluster.python or shlex.quote(sys.executable)
    chosen = {} if cluster.executor == "debug" else {f"{cluster.executor}_python": python}
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster.executor, **chosen)
    if cluster.executor == "debug":
        return executor
    executor.update_parameters(
        name=name,
        nodes=cluster.nodes,
        tasks_per_node=cluster.ranks_per_node,
        gpus_per_node=cluster.gpus_per_node,
        timeout_min=cluster.time_min,
    )
    setup = _setup(cluster, code)
    if cluster.executor == "local":
        executor.update_parameters(local_setup=setup)
        return executor
    executor.update_parameters(
        cpus_per_task=cluster.cpus_per_task,
        mem_gb=cluster.mem_gb * cluster.ranks_per_node,
        slurm_signal_delay_s=cluster.signal_s,
        slurm_array_parallelism=cluster.parallel,
        slurm_setup=[*setup, _MASTER, _HEADER],
        slurm_srun_args=_srun_options(cluster),
        slurm_teardown=_teardown(cluster, python, logs),
        slurm_additional_parameters=_sbatch_options(cluster, dependency),
    )
    if not cluster.gpus_per_node:
        # Otherwise the batch script asks for 0 GPUs by name.
        executor._executor.parameters.pop("gpus_per_node")
    return executor


def batch_script(executor: submitit.AutoExecutor, num_jobs: int) -> str:
    """Return the batch script that sbatch would get."""
    slurm = executor._executor
    assert isinstance(slurm, submitit.SlurmExecutor)
    if num_jobs > 1:
        slurm.parameters["map_count"] = num_jobs
    return slurm._make_submission_file_text(slurm._submitit_command_str, "")


def test_only(script: str) -> str:
    """Return what `sbatch --test-only` answers to a batch script.

    Raises:
        ConfigError: the cluster would reject it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        command = ["sbatch", "--test-only", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(_rejection(done.stderr))
    return done.stderr.strip()


_MASTER = "export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames | head -n 1)}"
_HEADER = f'echo "{START}$SLURM_JOB_ID, start ${{SLURM_RESTART_COUNT:-0}}, $SLURM_JOB_NODELIST" >&2'


@contextlib.contextmanager
def _quiet(executor: str) -> Iterator[None]:
    """While jobs are submitted, hide sbatch's messages, and this process's streams from local jobs.

    A local job lives on after this process; if it kept stdout open, a pipe after `tin submit` would
    not end.
    """
    if executor == "slurm":
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    elif executor == "local":
        with _null_streams():
            yield
    else:
        yield


@contextlib.contextmanager
def _null_streams() -> Iterator[None]:
    """While entered, stdin, stdout and stderr of this process and its children are /dev/null."""
    kept = [os.dup(number) for number in STREAMS]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number in STREAMS:
            os.dup2(null, number)
        yield
    finally:
        for number, copy in zip(STREAMS, kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


def _setup(cluster: Cluster, code: Path) -> list[str]:
    """Return the shell lines before a job: the user's own, and the snapshot of the code."""
    lines = [
        *cluster.setup,
        # Otherwise Python prefers packages in the current folder to those of the snapshot.
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    commit = code / "COMMIT"
    if commit.exists():
        lines.append(f"export TIN_COMMIT={shlex.quote(commit.read_text().strip())}")
    return lines


def _srun_options(cluster: Cluster) -> list[str]:
    return [
        "--kill-on-bad-exit=1",  # a rank that dies ends the others
        "--wait=60",
        f"--cpus-per-task={cluster.cpus_per_task}",  # srun does not inherit it from sbatch
        *cluster.srun,
    ]


def _teardown(cluster: Cluster, python: str, logs: Path) -> list[str]:
    """Return the end of the batch script: `launch.jobs.requeue` after a failure, the exit code."""
    after = f"{python} -m launch.jobs.requeue {shlex.quote(str(logs))} $rc"
    if any(option.startswith("--container") for option in cluster.srun):
        # pyxis enters a container only through srun.
        alone = ["srun", "--nodes=1", "--ntasks=1", "--nodelist=$SLURMD_NODENAME", *cluster.srun]
        after = f"{' '.join(alone)} {after}"
    is_running = '"$(squeue -h -j $SLURM_JOB_ID -o %T)" = RUNNING'
    requeue = f"[ {is_running} ] && scontrol requeue $SLURM_JOB_ID"
    return [
        "rc=$?",
        f"[ $rc -eq 0 ] || {{ {after}; rc=$?; }}",
        f"[ $rc -ne {ASK} ] || {{ {requeue}; }}",
        "exit $rc",
    ]


def _sbatch_options(cluster: Cluster, dependency: str) -> dict[str, str | int | bool]:
    names = ("partition", "account", "qos", "constraint", "reservation", "exclude", "nice")
    options = {name: getattr(cluster, name) for name in names if getattr(cluster, name)}
    options["no-requeue" if cluster.chain else "requeue"] = True
    if dependency:
        options |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    return {**options, **cluster.options}


def _rejection(text: str) -> str:
    """Return sbatch's reason for an error as one line, with the valid values if they are known."""
    line = next((line for line in text.splitlines() if "error: " in line), text.strip())
    reason = line.rpartition("error: ")[2].rpartition("failure: ")[2]
    for words, command in CHOICES.items():
        if words in reason.lower():
            command = [word.replace("$USER", getpass.getuser()) for word in command]
            done = subprocess.run(command, capture_output=True, text=True)
            found = ", ".join(dict.fromkeys(done.stdout.split("\n"))).strip(", ")
            return f"sbatch: {reason}; this cluster has {found or 'none'}: change the cluster file"
    return f"sbatch: {reason.removeprefix('sbatch: ')}"
