"""Measures the frames per second of `tin shard` against ffmpeg writing folders of JPEGs.

    python -m tests.bench_shard VIDEOS [ROUNDS]

VIDEOS is a folder that has videos at any depth, for example shared/videos. Both programs take turns
on the same files, with the same frame size, number of processes and nearly the same quality. `tin
shard` flushes its shards to the disk (fsync), checks and merges them; ffmpeg only writes files.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # pytest adds it by itself

from synthetic_videos import shard_config, write_labels

from preprocess.annotations.class_folders import VIDEO_SUFFIXES
from preprocess.convert import shard
from preprocess.shards import open_split
from preprocess.workers import num_cpus

ROUNDS = 5


class Measurement(NamedTuple):
    """What one program did in one round."""

    frames: int
    size_bytes: int
    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_shards(files: list[Path], source: Path, folder: Path) -> int:
    """Make a dataset with `tin shard`; return the number of its frames."""
    rows = [{"path": str(f.relative_to(source)), "labels": "a", "split": "train"} for f in files]
    labels = write_labels(folder / "labels.csv", rows)
    shard(shard_config(source, f"shard.labels={labels}"), folder / "d")
    return int(open_split(folder / "d", "train").videos["num_frames"].sum())


def write_jpegs(files: list[Path], source: Path, folder: Path) -> int:
    """Write a folder of JPEGs per video with ffmpeg; return the number of frames."""

    def convert(index: int) -> None:
        (folder / str(index)).mkdir()
        scale = "scale=-2:'min(256,ih)'"  # as in the original's script, but frames never grow
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(files[index]), "-vf", scale]
        command += ["-threads", "1", "-q:v", "2", str(folder / str(index) / "%05d.jpg")]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(num_cpus()) as pool:
        list(pool.map(convert, range(len(files))))
    return sum(len(names) for _, _, names in os.walk(folder))


def measure(
    convert: Callable[[list[Path], Path, Path], int], files: list[Path], source: Path
) -> Measurement:
    """Convert all files into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        cpu_start = cpu_seconds()
        wall_start = time.perf_counter()
        frames = convert(files, source, Path(folder))
        wall_s = time.perf_counter() - wall_start
        cpu_s = cpu_seconds() - cpu_start
        size_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.*"))
    return Measurement(frames, size_bytes, wall_s, cpu_s)


def main(source: Path, rounds: int) -> None:
    """Print a line per round and program, and the ratio of their medians."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    wall_rates: dict[str, list[float]] = {"tin": [], "ffmpeg": []}
    cpu_rates: dict[str, list[float]] = {"tin": [], "ffmpeg": []}
    for _ in range(rounds):
        for name, convert in (("tin", write_shards), ("ffmpeg", write_jpegs)):
            found = measure(convert, files, source)
            wall_rates[name].append(found.frames / found.wall_s)
            cpu_rates[name].append(found.frames / found.cpu_s)
            print(
                f"{name:7} {len(files)} videos, {found.frames} frames in {found.wall_s:.2f} s,"
                f" {found.cpu_s:.2f} s CPU: {wall_rates[name][-1]:.0f} frames/s,"
                f" {found.size_bytes / found.frames / 1e3:.1f} KB per frame"
            )
    wall = {name: median(rates) for name, rates in wall_rates.items()}
    cpu = {name: median(rates) for name, rates in cpu_rates.items()}
    print(
        f"frames/s, median of {rounds}: tin {wall['tin']:.0f}, ffmpeg {wall['ffmpeg']:.0f}"
        f" = {wall['tin'] / wall['ffmpeg']:.2f} x; by CPU time {cpu['tin'] / cpu['ffmpeg']:.2f} x"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure `tin shard` against ffmpeg.")
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos")
    parser.add_argument("rounds", type=int, metavar="ROUNDS", nargs="?", default=ROUNDS)
    arguments = parser.parse_args()
    main(arguments.videos, arguments.rounds)
