"""Hands of the cluster tests: they submit runs, disturb them, and wait for what comes of it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from launch import record
from tin.runs import checkpoint
from tin.runs import folder as runs

WAIT_S = 600.0  # for what takes seconds on an idle machine

STEP = re.compile(r"epoch \d+ step (\d+):")  # what rank 0 logs of each


def tin(*words: object, code: int = 0, **env: str) -> str:
    """Run `tin` and return what it printed; it must end with `code`."""
    command = [sys.executable, "-m", "launch", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, timeout=WAIT_S
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{said}"
    return said


def ask(*command: object) -> str:
    """Return what a command prints."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def wait(what: str, ready: Callable[[], object], seconds: float = WAIT_S) -> object:
    """Wait until `ready()` is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}\n{ask('squeue', '-r')}")
        time.sleep(0.2)
    return found


def queue(name: str = "") -> dict[str, str]:
    """Return the state of each job that waits or runs, of those whose names begin with `name`."""
    lines = ask("squeue", "-h", "-r", "-o", "%i|%T|%j").splitlines()
    rows = [line.split("|") for line in lines]
    return {job_id: state for job_id, state, job_name in rows if job_name.startswith(name)}


def ended(run: "Run") -> None:
    """Wait until no job of a run waits or runs."""
    ids = {job.id for job in record.jobs(run.path)}
    wait(f"the end of {run.path.name}", lambda: not ids & set(queue()))


def accounted(job_id: str, column: str) -> list[str]:
    """Return what sacct says of each execution of a job that has ended; it may lag behind."""
    listed = ["sacct", "-D", "-X", "-n", "-P", "-j", job_id, "-o"]
    alive = {"PENDING", "RUNNING"}
    wait(f"the account of {job_id}", lambda: not alive & set(ask(*listed, "State").split()))
    return ask(*listed, column).splitlines()


class Run:
    """A run on the cluster, seen from outside."""

    def __init__(self, work: Path, name: str):
        self.work, self.path = work, work / name

    def submit(self, stages: str, *settings: str, code: int = 0) -> str:
        """Submit stages of the tiny recipe."""
        place = ["--run", self.path, "--cluster", self.work / "box.yaml"]
        return tin("submit", stages, self.work / "tiny.yaml", *place, *settings, code=code)

    @property
    def job(self) -> str:
        """Number of the newest job."""
        return record.jobs(self.path)[-1].id

    @property
    def step(self) -> int:
        """Steps that are done."""
        return record.progress(self.path)

    @property
    def ends(self) -> list[record.End]:
        """How its jobs ended, so far."""
        return record.ends(self.path)

    @property
    def log(self) -> str:
        """What rank 0 logged, over all attempts."""
        jobs = [job for job in record.jobs(self.path) if job.stage == "train"]
        files = [job.log_file() for job in jobs]
        return "".join(file.read_text() for file in files if file.exists())

    def wait_step(self, step: int) -> None:
        """Wait until `step` steps are done, in a start that lives and has done one of its own."""

        def ready() -> bool:
            starts = self.log.split("=== job")[1:]
            lives = len(starts) > len(self.ends)
            return self.step >= step and lives and bool(STEP.search(starts[-1]))

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
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                env = dict(
                    pair.split("=", 1)
                    for pair in (folder / "environ").read_text().split("\0")
                    if "=" in pair
                )
                command = (folder / "cmdline").read_bytes()
            except (OSError, UnicodeDecodeError):
                continue
            is_rank = b"submitit.core._submit" in command and not command.startswith(b"srun")
            if is_rank and env.get("SLURM_JOB_ID") == self.job and "SLURM_PROCID" in env:
                found[int(env["SLURM_PROCID"])] = int(folder.name)
        return found

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to the process of a rank."""
        os.kill(wait(f"rank {rank}", lambda: self.ranks().get(rank)), number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all ranks, as Slurm does."""
        ask("scancel", f"--signal={number.name.removeprefix('SIG')}", self.job)

    def steps_logged(self) -> list[int]:
        """Return the numbers of the steps that were done, in their order; repeated ones too."""
        return [int(step) for step in STEP.findall(self.log)]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all tensors of the last checkpoint."""
        state = checkpoint.load(checkpoint.newest(runs.Run(self.path)))
        momentum = state["optimizer"]["state"]
        found = {f"momentum.{key}": value["momentum_buffer"] for key, value in momentum.items()}
        return {**state["model"], **found}


def assert_same_bits(one: Run, other: Run) -> None:
    """Assert that two runs ended with the same weights, statistics and momentum, bit for bit."""
    ours, theirs = one.weights(), other.weights()
    assert ours.keys() == theirs.keys()
    different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, {different[:3]} say"


def call_prod(nodes: str) -> None:
    """Let a job of higher priority take the nodes for some seconds."""
    sleeper = ["--wrap", "sleep 5", "-o", "/dev/null"]
    ask("sbatch", "-p", "prod", "-w", nodes, "-N2", "-c4", "--mem=100", *sleeper)
