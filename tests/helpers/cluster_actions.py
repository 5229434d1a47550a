"""Actions of the cluster tests: submit runs, disturb them, and wait for the outcome."""

import inspect
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch

from launch import record
from tin.runs import checkpoint
from tin.runs.folder import Run

WAIT_S = 600.0  # on an idle machine, everything takes seconds
BUSY = 8.0
"""Waits grow with the load of each CPU beyond this one: the tests alone cause a load of up to 8."""
STEP = re.compile(r"epoch \d+ step (\d+):")
"""Matches what rank 0 logs after each step."""
OVER = threading.Event()
"""Set when the tests of a module have ended, so that no scene continues to wait."""
Found = TypeVar("Found")


Scenes = dict[str, "Future[Any]"]


def started_scenes(
    request: pytest.FixtureRequest,
    scenes: Mapping[str, Callable[[Path, Path], object]],
    work: Path,
    box: Path,
    at_once: int = 3,
) -> Iterator[Scenes]:
    """Yield the future outcome of each scene that a chosen test of the module names.

    Several scenes run at once, since much of the time is waiting.
    """
    chosen = [item for item in request.session.items if item.path == request.path]
    named = [name for name in scenes if any(_names(item, name, scenes) for item in chosen)]
    OVER.clear()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield {name: pool.submit(scenes[name], work, box) for name in named}
        finally:
            OVER.set()  # nobody asks for the scenes that are still under way
            pool.shutdown(wait=False, cancel_futures=True)


def _names(item: Any, name: str, scenes: Mapping[str, object]) -> bool:
    """Return whether a test uses a scene: the one of its parameter, or those of its source."""
    parameter = item.callspec.params.get("name") if hasattr(item, "callspec") else None
    if parameter in scenes:
        return bool(parameter == name)
    return name in inspect.getsource(item.function)


def tin(*words: object, code: int = 0, **env: str) -> str:
    """Run `tin` and return what it printed; assert that it exits with `code`."""
    command = [sys.executable, "-m", "launch", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, timeout=WAIT_S
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{printed}"
    return printed


def ask(*command: object) -> str:
    """Return what a command prints."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def wait(what: str, ready: Callable[[], Found | None], seconds: float = WAIT_S) -> Found:
    """Wait until the value of `ready()` is true, and return that value.

    The bound is `seconds` on a machine without other work, and longer on a busy one.
    """
    began = time.monotonic()
    while not (found := ready()):
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        if OVER.is_set() or time.monotonic() - began > seconds * max(1.0, load / BUSY):
            raise TimeoutError(f"waited {seconds:.0f} s for {what}\n{ask('squeue', '-r')}")
        time.sleep(0.2)
    return found


def queue(name: str = "") -> dict[str, str]:
    """Return the state of each queued or running job whose name begins with `name`."""
    lines = ask("squeue", "-h", "-r", "-o", "%i|%T|%j").splitlines()
    rows = [line.split("|") for line in lines]
    return {job_id: state for job_id, state, job_name in rows if job_name.startswith(name)}


def wait_ended(run: "ClusterRun") -> None:
    """Wait until no job of a run is queued or running."""
    ids = {job.id for job in record.jobs(run.path)}
    wait(f"the end of {run.path.name}", lambda: not ids & set(queue()))


def accounted(job_id: str, column: str) -> list[str]:
    """Return a column of sacct for each execution of a job that has ended.

    sacct may lag behind, so wait until it knows the end.
    """
    listed = ["sacct", "-D", "-X", "-n", "-P", "-j", job_id, "-o"]
    alive = {"PENDING", "RUNNING"}
    wait(f"the account of {job_id}", lambda: not alive & set(ask(*listed, "State").split()))
    return ask(*listed, column).splitlines()


class ClusterRun:
    """A run on the cluster, as a user sees it."""

    def __init__(self, work: Path, name: str):
        self.work = work
        self.path = work / name

    def submit(self, stages: str, *settings: str, code: int = 0) -> str:
        """Submit stages of the tiny recipe."""
        options = ["--run", self.path, "--cluster", self.work / "box.yaml"]
        return tin("submit", stages, self.work / "tiny.yaml", *options, *settings, code=code)

    @property
    def job(self) -> str:
        """Slurm's number of the newest job."""
        return record.jobs(self.path)[-1].id

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return record.progress(self.path)

    @property
    def ends(self) -> list[record.End]:
        """How the executions of its jobs have ended so far."""
        return record.ends(self.path)

    @property
    def log(self) -> str:
        """What rank 0 logged in all attempts."""
        jobs = [job for job in record.jobs(self.path) if job.stage == "train"]
        files = [job.log_file() for job in jobs]
        return "".join(file.read_text() for file in files if file.exists())

    def wait_step(self, step: int) -> None:
        """Wait until `step` steps are complete and the current start has completed one itself."""

        def ready() -> bool:
            starts = self.log.split("=== job")[1:]
            is_running = len(starts) > len(self.ends)
            return self.step >= step and is_running and bool(STEP.search(starts[-1]))

        wait(f"step {step} of {self.path.name}", ready)

    def wait_done(self, stage: str = "train", seconds: float = WAIT_S) -> None:
        """Wait until a stage is complete."""

        def ready() -> bool:
            gave_up = [end.text for end in self.ends if end.kind == "gave up"]
            assert not gave_up, f"{self.path.name} gave up: {gave_up}\n{self.log[-3000:]}"
            return any(end.kind == "done" and end.stage == stage for end in self.ends)

        wait(f"the end of {self.path.name}\n{self.log[-3000:]}", ready, seconds)

    def ranks(self) -> dict[int, int]:
        """Return the process of each rank of the job."""
        job = self.job
        found = {}
        for process in psutil.process_iter(["cmdline", "environ"]):
            command = process.info["cmdline"] or []
            variables = process.info["environ"] or {}
            runs_stage = "launch.jobs.rank" in command and Path(command[0]).name != "srun"
            if runs_stage and variables.get("SLURM_JOB_ID") == job and "SLURM_PROCID" in variables:
                found[int(variables["SLURM_PROCID"])] = process.pid
        return found

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to the process of a rank."""
        os.kill(wait(f"rank {rank}", lambda: self.ranks().get(rank)), number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all ranks, as Slurm does."""
        ask("scancel", f"--signal={number.name.removeprefix('SIG')}", self.job)

    def steps_logged(self) -> list[int]:
        """Return the numbers of the logged steps in order; a step that was repeated comes twice."""
        return [int(step) for step in STEP.findall(self.log)]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all tensors of the newest checkpoint."""
        state = checkpoint.load(checkpoint.newest(Run(self.path)))
        momentum = state["optimizer"]["state"]
        found = {f"momentum.{key}": value["momentum_buffer"] for key, value in momentum.items()}
        return {**state["model"], **found}


def assert_same_bits(one: ClusterRun, other: ClusterRun) -> None:
    """Assert that two runs ended with the same weights, statistics and momentum, bit for bit."""
    ours = one.weights()
    theirs = other.weights()
    assert ours.keys() == theirs.keys()
    different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ: {different[:3]} ..."


def call_prod(nodes: str) -> None:
    """Let a job of higher priority preempt the jobs on the nodes for some seconds."""
    sleeper = ["--wrap", "sleep 5", "-o", "/dev/null"]
    ask("sbatch", "-p", "prod", "-w", nodes, "-N2", "-c4", "--mem=100", *sleeper)
