"""`make demo`: generated videos, three networks on the same shards, one report.

usage: demo.py FOLDER [--seed N]. The same commands, on real videos, are the product; each is
printed before it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

NETWORKS = ("interlace", "shift", "none")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    demo(given.folder, given.seed)


def demo(folder: Path, seed: int) -> None:
    """Make the videos and shards, train and test each network, write the report."""
    videos, shards = folder / "videos", folder / "shards"
    tin("op", "build")
    if not (shards / "dataset.yaml").exists():
        tin("data", "demo", videos)
        tin("shard", videos, shards, "--labels", videos / "labels.csv", "shard.short_side=64")
    for temporal in NETWORKS:
        run = folder / "runs" / f"{temporal}-{seed}"
        settings = [f"data.dataset={shards}", f"model.temporal={temporal}", f"train.seed={seed}"]
        tin("train", "demo", "--run", run, *settings)
        tin("test", run)
    tin("report", folder / "runs", "--out", folder / "report")
    found = {temporal: metrics(folder / "runs" / f"{temporal}-{seed}") for temporal in NETWORKS}
    print("\naccuracy of the direction, given the axis of the motion (chance is 50 %):")
    for temporal, values in found.items():
        print(f"  {temporal:10} {100 * values['pair']:5.1f} %")
    print(f"\nthe report: {folder / 'report' / 'results.html'}")
    learned = min(found[temporal]["top1"] for temporal in ("interlace", "shift"))
    if learned < 0.9 or found["none"]["top1"] > 0.55:
        sys.exit(
            "this is not what the demo should show: interlace and shift >= 90 %, none <= 55 % top-1"
        )


def metrics(run: Path) -> dict[str, float]:
    """Return what `tin test` measured of a run."""
    (result,) = run.glob("tests/*/result.json")
    return json.loads(result.read_text())["metrics"]


def tin(*words: object) -> None:
    """Run a command of `tin` as a user would, and say how long it took."""
    command = [str(word) for word in words]
    print(f"\n$ tin {shlex.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "launch", *command]).returncode
    print(f"({command[0]}: {time.monotonic() - began:.0f} s)", flush=True)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
