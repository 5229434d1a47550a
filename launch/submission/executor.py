"""submitit's executors: the options of sbatch and srun, the batch script, and the submission."""

import contextlib
import getpass
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit

from configs.cluster import Cluster
from configs.load import ConfigError
from launch.errors import ASK
from launch.jobs.job import LOGS, StageJob
from launch.jobs.requeue import PATIENCE_S, PAUSE_S
from launch.jobs.srun_log import START
from launch.submission.sbatch import SbatchError, new_task_files, sbatch

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
    if cluster.executor == "slurm":
        tasks = new_task_files(logs, jobs)
        script = batch_script(cluster, name, tasks, code, len(jobs), dependency)
        try:
            job_id = sbatch(script, Path(f"{tasks}.sh"))
        except SbatchError as error:
            raise ConfigError(rejection(str(error))) from None
        return [job_id] if len(jobs) == 1 else [f"{job_id}_{task}" for task in range(len(jobs))]
    executor = _local_executor(cluster, name, logs, code)
    with warnings.catch_warnings(action="ignore"), _quiet(cluster.executor):
        submitted = executor.submit_array(list(jobs))
    if cluster.executor == "debug":
        for job in submitted:
            failure = job.exception()  # runs the job; job.results() would start a debugger
            if failure:
                raise failure
    return [job.job_id for job in submitted]


def batch_script(
    cluster: Cluster, name: str, tasks: str, code: Path, num_jobs: int, dependency: str = ""
) -> str:
    """Return the batch script of a job, or of an array of several.

    Args:
        cluster: settings of the stage.
        name: name of the job.
        tasks: path of the files that say what each task runs, see `launch.jobs.job.load_task`.
        code: folder where Python looks for packages first.
        num_jobs: number of tasks.
        dependency: sbatch's option.
    """
    if not shutil.which("srun"):
        raise ConfigError(
            "srun was not found: submit from a login node of a Slurm cluster, or use --cluster"
            " local"
        )
    python = cluster.python or shlex.quote(sys.executable)
    # In the names of log files, Slurm replaces %j and its like; %% is the character itself.
    logs = Path(tasks).parent
    executor = submitit.AutoExecutor(
        folder=str(logs).replace("%", "%%"), cluster="slurm", slurm_python=python
    )
    executor.update_parameters(
        name=name,
        nodes=cluster.nodes,
        tasks_per_node=cluster.ranks_per_node,
        timeout_min=cluster.time_min,
        cpus_per_task=cluster.cpus_per_task,
        mem_gb=cluster.mem_gb * cluster.ranks_per_node,
        slurm_signal_delay_s=cluster.signal_s,
        slurm_array_parallelism=cluster.parallel,
        slurm_setup=[*_setup(cluster, code), _logs_line(logs), _MASTER, _HEADER],
        slurm_srun_args=_srun_options(cluster),
        slurm_teardown=_teardown(cluster, python, tasks),
        slurm_additional_parameters=_sbatch_options(cluster, dependency),
    )
    slurm = executor._executor
    assert isinstance(slurm, submitit.SlurmExecutor)
    # The executor asks for 0 GPUs by name where there are none; `_sbatch_options` asks for them.
    slurm.parameters.pop("gpus_per_node", None)
    if num_jobs > 1:
        slurm.parameters["map_count"] = num_jobs
    command = f"{python} -u -m launch.jobs.rank {shlex.quote(tasks)}"
    return slurm._make_submission_file_text(command, "")


def _local_executor(cluster: Cluster, name: str, logs: Path, code: Path) -> submitit.AutoExecutor:
    """Return submitit's executor of processes on this machine, or inside of this process."""
    python = cluster.python or shlex.quote(sys.executable)
    if cluster.executor == "debug":
        return submitit.AutoExecutor(folder=logs, cluster="debug")
    executor = submitit.AutoExecutor(folder=logs, cluster="local", local_python=python)
    executor.update_parameters(
        name=name,
        nodes=cluster.nodes,
        tasks_per_node=cluster.ranks_per_node,
        gpus_per_node=cluster.num_gpus,
        timeout_min=cluster.time_min,
        local_setup=_setup(cluster, code),
    )
    return executor


_MASTER = "export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames | head -n 1)}"
_HEADER = f'echo "{START}$SLURM_JOB_ID, start ${{SLURM_RESTART_COUNT:-0}}, $SLURM_JOB_NODELIST" >&2'


@contextlib.contextmanager
def _quiet(executor: str) -> Iterator[None]:
    """While local jobs are submitted, hide this process's streams from them.

    A local job lives on after this process; if it kept stdout open, a pipe after `tin submit` would
    not end.
    """
    if executor == "local":
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


def _logs_line(logs: Path) -> str:
    return f"export {LOGS}={shlex.quote(str(logs))}"


def _teardown(cluster: Cluster, python: str, tasks: str) -> list[str]:
    """Return the end of the batch script: `launch.jobs.requeue` after a failure, the exit code."""
    after = f"{python} -m launch.jobs.requeue {shlex.quote(tasks)} $rc $SECONDS"
    if any(option.startswith("--container") for option in cluster.srun):
        # pyxis enters a container only through srun.
        alone = ["srun", "--nodes=1", "--ntasks=1", "--nodelist=$SLURMD_NODENAME", *cluster.srun]
        after = f"{' '.join(alone)} {after}"
    return [
        "rc=$?",
        f"[ $rc -eq 0 ] || {{ {after}; rc=$?; }}",
        f"[ $rc -ne {ASK} ] || {{ {_REQUEUE}",
        "}",
        "exit $rc",
    ]


_REQUEUE = rf"""trap '' TERM
  job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
  job=${{job:-$SLURM_JOB_ID}}
  end=$((SECONDS + {PATIENCE_S:.0f}))
  while [ $SECONDS -lt $end ]; do
    if state=$(squeue -h -j $job -o %T); then
      [ "$state" = RUNNING ] || break
      said=$(scontrol requeue $job 2>&1) && break
      echo "tin: $said" >&2
      case $said in *[Cc]ontact*|*timed\ out*|*connect*|*try\ again*) ;; *) break ;; esac
    fi
    sleep {PAUSE_S:.0f}
  done"""
"""What the batch script does for a container without Slurm's commands: the same as
`launch.jobs.requeue`. The task of an array has a name of its own, since the number of its last task
is also that of the whole array."""


def _sbatch_options(cluster: Cluster, dependency: str) -> dict[str, str | int | bool]:
    names = ("partition", "account", "qos", "constraint", "reservation", "exclude", "nice")
    options = {name: getattr(cluster, name) for name in names if getattr(cluster, name)}
    options["no-requeue" if cluster.chain else "requeue"] = True
    if cluster.num_gpus and "gres" not in cluster.options:
        options["gpus-per-node"] = cluster.gpus_per_node
    if dependency:
        options |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    return {**options, **cluster.options}


def rejection(text: str) -> str:
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
