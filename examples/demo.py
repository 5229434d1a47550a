"""The demo of `make demo`: three networks learn from generated videos, and a report compares them.

Usage: demo.py FOLDER [--seed N]. Each command is printed before it runs; the same commands work on
real videos.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

NETWORKS = ("interlace", "shift", "none")  # values of model.temporal


def main() -> None:
    """Read the command line and run the demo."""
    parser = argparse.ArgumentParser(description="Train three networks on generated videos.")
    parser.add_argument("folder", type=Path, help="Folder for videos, shards, runs and report.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of training (default: 0).")
    given = parser.parse_args()
    demo(given.folder, given.seed)


def demo(folder: Path, seed: int) -> None:
    """Generate videos, convert them to shards, train and test each network, write the report.

    The demo exits with an error if the networks did not learn what they should.
    """
    videos = folder / "videos"
    shards = folder / "shards"
    tin("op", "build")
    if not (shards / "dataset.yaml").exists():
        tin("data", "demo", videos)
        tin("shard", videos, shards, "--labels", videos / "labels.csv", "shard.short_side=64")
    measured = {}
    for temporal in NETWORKS:
        run_dir = folder / "runs" / f"{temporal}-{seed}"
        settings = [f"data.dataset={shards}", f"model.temporal={temporal}", f"train.seed={seed}"]
        tin("train", "demo", "--run", run_dir, *settings)
        tin("test", run_dir)
        measured[temporal] = metrics(run_dir)
    tin("report", folder / "runs", "--out", folder / "report")
    print("\nAccuracy of the direction of a motion whose axis is given (chance level: 50 %):")
    for temporal, values in measured.items():
        print(f"  {temporal:10} {100 * values['pair']:5.1f} %")
    print(f"\nReport: {folder / 'report' / 'results.html'}")
    command = Path(sys.executable).with_name("tin")
    print(f"`tin` is {command}. To type it as `tin`: export PATH={command.parent}:$PATH")
    check(measured)


def check(measured: dict[str, dict[str, float]]) -> None:
    """Exit with an error unless interlace and shift learned the direction and none did not.

    A network that sees single frames can tell the axis of a motion but not its direction.
    """
    temporal = min(measured["interlace"]["top1"], measured["shift"]["top1"])
    frames_only = measured["none"]["top1"]
    if temporal < 0.9 or frames_only > 0.55:
        sys.exit(
            "The demo failed: expected a top-1 accuracy of at least 90 % with interlace and shift"
            f" and of at most 55 % with none, found {100 * temporal:.1f} % (the lower one of"
            f" interlace and shift) and {100 * frames_only:.1f} %."
        )


def metrics(run_dir: Path) -> dict[str, float]:
    """Return the metrics that `tin test` wrote for a run."""
    (result,) = run_dir.glob("tests/*/result.json")
    return json.loads(result.read_text())["metrics"]


def tin(*arguments: object) -> None:
    """Run a `tin` command as a user would, and print how long it took."""
    command = [str(argument) for argument in arguments]
    print(f"\n$ tin {shlex.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "launch", *command]).returncode
    print(f"({command[0]}: {time.monotonic() - began:.0f} s)", flush=True)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
