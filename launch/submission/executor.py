"""Jobs of submitit's executors: what sbatch is asked for, and how jobs follow one another."""

import contextlib
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
HINTS = {  # what sbatch says, and the command that lists what there is
    "invalid partition": ["sinfo", "-h", "-o", "%R"],
    "invalid account": ["sacctmgr", "-nP", "show", "assoc", "user=$USER", "format=account"],
    "invalid qos": ["sacctmgr", "-nP", "show", "qos", "format=name"],
    "memory": ["sinfo", "-h", "-o", "%R %m MB a node"],
    "node configuration": ["sinfo", "-h", "-o", "%R: %D nodes, %c CPUs, %m MB, %G"],
    "node name": ["sinfo", "-h", "-o", "%N"],
    "feature": ["sinfo", "-h", "-o", "%R %f"],
}


def submit_jobs(
    jobs: Sequence[StageJob],
    cluster: Cluster,
    name: str,
    logs: Path,
    code: Path,
    dependency: str = "",
) -> list[str]:
    """Submit jobs, several as one array, and return their numbers.

    Args:
        jobs: what each job or task of the array runs.
        cluster: settings of the stage.
        name: name of the job; no two jobs of one name run at a time.
        logs: folder of pickles and log files.
        code: folder that Python looks into first.
        dependency: `afterok:12`, say.

    Raises:
        ConfigError: the cluster refuses the job; says why, and what there is.
    """
    executor = make_executor(cluster, name, logs, code, dependency)
    try:
        with warnings.catch_warnings(action="ignore"), _streams(cluster.executor):
            submitted = executor.submit_array(list(jobs))
    except FailedJobError as error:
        raise ConfigError(_refusal(str(error))) from None
    if cluster.executor == "debug":
        for job in submitted:
            error = job.exception()  # this runs it; results() would open a debugger
            if error:
                raise error
    return [job.job_id for job in submitted]


def make_executor(
    cluster: Cluster, name: str, logs: Path, code: Path, dependency: str = ""
) -> submitit.AutoExecutor:
    """Return submitit's executor with everything that the cluster file asks for."""
    if cluster.executor == "slurm" and not shutil.which("srun"):
        raise ConfigError("this machine has no srun: go to a login node, or --cluster local")
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
    setup = [
        *cluster.setup,
        "export PYTHONSAFEPATH=1",  # else the current folder's code comes before the snapshot's
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    commit = code / "COMMIT"
    if commit.exists():
        setup.append(f"export TIN_COMMIT={shlex.quote(commit.read_text().strip())}")
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
        executor._executor.parameters.pop("gpus_per_node")  # submitit would ask for 0 of them
    return executor


def script(executor: submitit.AutoExecutor, num_jobs: int) -> str:
    """Return the batch script that sbatch would get."""
    inner = executor._executor
    if num_jobs > 1:
        inner.parameters["map_count"] = num_jobs
    return inner._make_submission_file_text(inner._submitit_command_str, "")


def test_only(text: str) -> str:
    """Return what `sbatch --test-only` says to a batch script.

    Raises:
        ConfigError: the cluster would refuse it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(text)
        file.flush()
        command = ["sbatch", "--test-only", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(_refusal(done.stderr))
    return done.stderr.strip()


_MASTER = "export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames | head -n 1)}"
_HEADER = f'echo "{START}$SLURM_JOB_ID, start ${{SLURM_RESTART_COUNT:-0}}, $SLURM_JOB_NODELIST" >&2'


@contextlib.contextmanager
def _streams(executor: str) -> Iterator[None]:
    """Keep sbatch's messages from stderr, and local jobs from this process's open streams."""
    if executor != "local":
        with (
            contextlib.redirect_stderr(io.StringIO())
            if executor == "slurm"
            else contextlib.nullcontext()
        ):
            yield
        return
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


def _srun_options(cluster: Cluster) -> list[str]:
    return [
        "--kill-on-bad-exit=1",  # one dead rank ends them all
        "--wait=60",
        f"--cpus-per-task={cluster.cpus_per_task}",  # srun does not inherit it from sbatch
        *cluster.srun,
    ]


def _teardown(cluster: Cluster, python: str, logs: Path) -> list[str]:
    after = f"{python} -m launch.jobs.requeue {shlex.quote(str(logs))} $rc"
    if any(option.startswith("--container") for option in cluster.srun):  # pyxis: not without srun
        alone = ["srun", "--nodes=1", "--ntasks=1", "--nodelist=$SLURMD_NODENAME", *cluster.srun]
        after = f"{' '.join(alone)} {after}"
    runs = '"$(squeue -h -j $SLURM_JOB_ID -o %T)" = RUNNING'
    requeue = f"[ {runs} ] && scontrol requeue $SLURM_JOB_ID"
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


def _refusal(text: str) -> str:
    """Return sbatch's reason with what there is to choose from."""
    line = next((line for line in text.splitlines() if "error: " in line), text.strip())
    reason = line.rpartition("error: ")[2].rpartition("failure: ")[2]
    for words, command in HINTS.items():
        if words in reason.lower():
            command = [word.replace("$USER", _user()) for word in command]
            done = subprocess.run(command, capture_output=True, text=True)
            found = ", ".join(dict.fromkeys(done.stdout.split("\n"))).strip(", ")
            return f"sbatch: {reason}; there is {found or 'none'}: change the cluster file"
    return f"sbatch: {reason.removeprefix('sbatch: ')}"


def _user() -> str:
    import getpass

    return getpass.getuser()
