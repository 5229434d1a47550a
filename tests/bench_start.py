"""Measures the time to the first output of commands, and of wrong usage, as a Markdown table.

    python -m tests.bench_start [CHECKOUT ...]

Compares the checkouts of this project that are given (default: this one) with the same Python and
packages. The checkouts take turns. Each number is the median of three starts: seconds on the clock,
and seconds of CPU time, until a command has printed its first text to a terminal. It is killed
then. The CPU time counts on a machine that others use. A command that a checkout does not accept,
or wrong usage that it accepts, has no times there.
"""

import contextlib
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROUNDS = 3
SETTINGS = (
    "data.dataset=shards train.epochs=1 optim.warmup_epochs=0 clip.num_segments=2 clip.crop=32"
    " clip.resize=32"
)
PREPARE = (
    "data demo videos --train 40 --val 16 --size 32",
    "shard videos shards --labels videos/labels.csv shard.short_side=32",
    f"train clips --run runs/first {SETTINGS} run.device=cpu",
    "test runs/first",
)
COMMANDS = (
    "",
    "--help",
    "train --help",
    "config clips",
    "shard videos again --labels videos/labels.csv",
    f"train clips --run runs/again {SETTINGS} run.device=cpu",
    "test runs/first --views 2x1",
    "predict runs/first VIDEO",
    "report runs --out report",
    "fuse FOLDER FOLDER --out fused",
    f"submit train,test clips --run runs/job --cluster local --dry-run {SETTINGS}",
    "status runs",
    "list runs",
    "logs runs/first",
    "cancel runs/first",
    "check",
    "doctor runs/first",
    "export runs/first model.pt2",
    "data demo more --train 40 --val 16",
    "data graded graded",
    "data verify shards",
    "data merge shards",
    "data show shards",
    "weights export runs/first weights.pth.tar",
    "op check",
    "bench scale",
)
WRONG = (
    "trian clips --run runs/wrong",
    f"train clip --run runs/wrong {SETTINGS}",
    f"train clips --run runs/wrong {SETTINGS} train.epoch=3",
    f"train clips --run runs/wrong {SETTINGS} train.epochs=three",
    f"train clips --run runs/wrong {SETTINGS} --epochs 3",
    "train clips --run runs/wrong data.dataset=missing",
    f"train clips --run runs/wrong {SETTINGS} model.init=missing.pt",
    "test runs/missing",
    "report missing",
    "shard missing shards-2",
    "predict runs/first missing.mp4",
)


def typed(arguments: list[str]) -> list[str]:
    """Return the command line of a command."""
    return [sys.executable, "-c", "import launch.cli; launch.cli.main()", *arguments]


def is_accepted(checkout: Path, arguments: list[str], folder: Path) -> bool:
    """Return whether a whole run of a command succeeds."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(typed(arguments), cwd=folder, env=env, capture_output=True)
    return done.returncode == 0


def first_output(checkout: Path, arguments: list[str], folder: Path) -> tuple[float, float]:
    """Return the clock time and the CPU time, in seconds, until a command prints something."""
    main, terminal = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(checkout), "TERM": "xterm"}
    start = time.perf_counter()
    process = subprocess.Popen(
        typed(arguments),
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    with contextlib.suppress(OSError):  # a command that prints nothing closes the terminal
        os.read(main, 1)
    elapsed = time.perf_counter() - start
    times = psutil.Process(process.pid).cpu_times()  # its times stay until it is waited for
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(main)
    return elapsed, times.user + times.system


def prepared(checkout: Path, folder: Path) -> dict[str, str]:
    """Make videos, a dataset and a tested run; return what stands for the words in capitals."""
    for command in PREPARE:
        if not is_accepted(checkout, command.split(), folder):
            sys.exit(f"{checkout}: tin {command} failed")
    (test,) = (folder / "runs/first/tests").iterdir()
    video = min((folder / "videos").rglob("*.mp4"))
    return {"FOLDER": str(test), "VIDEO": str(video)}


def main() -> None:
    """Print a table with one row for each command."""
    checkouts = [Path(path).resolve() for path in sys.argv[1:]] or [Path.cwd()]
    heads = "".join(f" {path.name} s | {path.name} CPU s |" for path in checkouts)
    print(f"| command |{heads}\n|---|{'---|---|' * len(checkouts)}")
    with tempfile.TemporaryDirectory() as parent:
        folders = [Path(tempfile.mkdtemp(dir=parent)) for _ in checkouts]
        words = [prepared(path, folder) for path, folder in zip(checkouts, folders, strict=True)]
        for command in (*WRONG, *COMMANDS):
            places = list(zip(checkouts, folders, words, strict=True))
            lines = [[named.get(w, w) for w in command.split()] for _, _, named in places]
            found: list[list[tuple[float, float]]] = [[] for _ in places]
            for _ in range(ROUNDS):
                for measured, line, (checkout, folder, _) in zip(found, lines, places, strict=True):
                    measured.append(first_output(checkout, line, folder))
            cells = ""
            for measured, line, (checkout, folder, _) in zip(found, lines, places, strict=True):
                if is_accepted(checkout, line, folder) == (command in COMMANDS):
                    medians = [statistics.median(times) for times in zip(*measured, strict=True)]
                    cells += "".join(f" {median:.2f} |" for median in medians)
                else:
                    cells += " - | - |"
            print(f"| `tin {command}` |".replace(SETTINGS, "...") + cells, flush=True)


if __name__ == "__main__":
    main()
