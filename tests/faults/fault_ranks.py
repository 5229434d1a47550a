"""Faults of the ranks of a training run: after each, the run resumes and ends with equal weights.

Each fault happens in a real process, on rank 1 of two ranks. All ranks are then killed, as srun
does when one has ended, and the run is started again without the fault.
"""

import ctypes
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from fault_table import Kind, Outcome
from rank_processes import finish, start_ranks
from short_runs import ONE_EPOCH, train_run, weights
from synthetic_dataset import write_dataset

from tin.runs.folder import Run
from tin.training import trainer

TIMEOUT_S = 300
"""A fault that is not noticed within this time hangs the run."""
HANG_MINUTES = 1.0
LONG_S = 600
DAY_S = 86_400.0
NUM_STEPS = 6


def train_with_fault(fault: Callable[[], None], step: int, run_dir: Path, *settings: str) -> None:
    """Train on this rank; before a step, the fault happens on rank 1."""
    from tin.ranks import watchdog

    watchdog.FIRST_STEP_S = 20.0
    watchdog.GRACE_S = 0.2
    original = trainer.train_step

    def train_step(state: trainer.TrainingState, batches: list) -> float | torch.Tensor:
        if state.global_step == step and os.environ.get("RANK") == "1":
            fault()
        return original(state, batches)

    trainer.train_step = train_step
    train_run(run_dir, *settings)


def send(number: signal.Signals) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def read_address_0() -> None:
    """Crash as broken native code does."""
    ctypes.string_at(0)


def take_all_memory() -> None:
    """Take more memory than this process may have."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
    torch.ones(1 << 30)


def hang() -> None:
    """Wait for something that never comes."""
    threading.Event().wait(LONG_S)


def hold_the_gil() -> None:
    """Stop all threads of Python in this process, also the watchdog."""
    ctypes.PyDLL(None).sleep(LONG_S)


def raise_in_a_thread() -> None:
    """Raise an error in a thread that nobody joins."""
    thread = threading.Thread(target=partial(int, "no number"))
    thread.start()
    thread.join()


def be_slow() -> None:
    """Take longer than usual, but not too long."""
    time.sleep(1.5)


def jump(seconds: float) -> None:
    """Change the clock of this process."""
    original = time.time
    time.time = lambda: original() + seconds


def break_weights() -> None:
    """Let the model compute NaN from here on."""
    original = trainer.train_step

    def poisoned(state: trainer.TrainingState, batches: list) -> float | torch.Tensor:
        with torch.no_grad():
            next(state.model.parameters()).fill_(float("nan"))
        return original(state, batches)

    trainer.train_step = poisoned


def rank_faults(
    fault: Callable[[], None], folder: Path, draws: random.Random, count: int
) -> Iterator[Outcome]:
    """Let rank 1 of a run suffer a fault, resume the run, and compare its weights.

    Args:
        fault: what happens on rank 1.
        folder: an empty folder.
        draws: chooses the steps.
        count: number of injections.
    """
    dataset = write_dataset(folder / "data", [5] * 24)
    settings = (
        f"data.dataset={dataset}", *ONE_EPOCH, "run.checkpoint_steps=2", "run.check_node=false",
    )  # fmt: skip
    if fault in (hang, hold_the_gil):
        settings = (*settings, f"run.hang_minutes={HANG_MINUTES}")
    expected = folder / "undisturbed"
    codes = finish(start_ranks(2, train_run, expected, *settings), TIMEOUT_S)
    assert codes == [0, 0], codes
    for number in range(count):
        run_dir = folder / f"run-{number}"
        step = draws.randrange(1, NUM_STEPS)
        ranks = start_ranks(2, train_with_fault, fault, step, run_dir, *settings)
        noticed = _wait_for_one(ranks)
        if noticed == "not noticed":
            yield Outcome(noticed, f"step {step}: no rank has ended")
            continue
        if "train" not in Run(run_dir).done():
            codes = finish(start_ranks(2, train_run, run_dir, *settings), TIMEOUT_S)
            if codes != [0, 0]:
                yield Outcome(noticed, f"step {step}: does not resume: {codes}")
                continue
        yield Outcome(noticed, _difference(run_dir, expected, step))


def _wait_for_one(ranks: list) -> str:
    """Wait until one rank has failed, or all have ended; kill the others. Return what was seen."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        codes = [rank.exitcode for rank in ranks]
        failed = [code for code in codes if code not in (None, 0)]
        if failed or None not in codes:
            finish(ranks, 0)
            return "survived" if not failed else f"exit code {failed[0]}"
        time.sleep(0.1)
    finish(ranks, 0)
    return "not noticed"


def _difference(run_dir: Path, expected: Path, step: int) -> str:
    """Return how the weights of two runs differ; empty if they are equal, bit for bit."""
    found = weights(run_dir)
    for name, tensor in weights(expected).items():
        if not torch.equal(tensor, found[name]):
            return f"step {step}: other weights, for example {name}"
    return ""


def rank_kinds() -> list[Kind]:
    """Return all kinds of faults of ranks. They take minutes, so `make test` leaves them out.

    tests/tin/training/test_trainer.py kills and stops ranks there.
    """
    faults: dict[str, Callable[[], None]] = {
        "is killed": partial(send, signal.SIGKILL),
        "gets SIGTERM": partial(send, signal.SIGTERM),
        "gets SIGUSR2": partial(send, signal.SIGUSR2),
        "reads address 0": read_address_0,
        "runs out of memory": take_all_memory,
        "hangs": hang,
        "holds the GIL for minutes": hold_the_gil,
        "raises in a thread": raise_in_a_thread,
        "is slow": be_slow,
        "has a clock that jumps a day forward": partial(jump, DAY_S),
        "has a clock that jumps a day back": partial(jump, -DAY_S),
        "computes NaN": break_weights,
    }
    return [
        Kind(f"a rank {name}", partial(rank_faults, fault), 0, 3 if name == "is killed" else 1)
        for name, fault in faults.items()
    ]
