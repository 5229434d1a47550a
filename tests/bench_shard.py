"""Frames a second of `tin shard` against ffmpeg that writes folders of JPEGs, in turns.

Run: python tests/bench_shard.py VIDEOS   (a folder of a folder per class, or of shared/videos)
Both get the same files, size, number of processes and about the same quality; ours writes the
shards to the disk for good (fsync), checks and merges, ffmpeg only writes files.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from synthetic_videos import shard_config, write_labels

from preprocess.annotations.read import VIDEO_SUFFIXES
from preprocess.convert import shard
from preprocess.shards import open_split
from preprocess.workers import num_cpus

ROUNDS = 5


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all its children that have ended."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(time.ru_utime + time.ru_stime for time in times)


def ours(files: list[Path], source: Path, folder: Path) -> int:
    """Make a dataset; return its frames."""
    rows = [{"path": str(f.relative_to(source)), "labels": "a", "split": "train"} for f in files]
    labels = write_labels(folder / "labels.csv", rows)
    shard(shard_config(source, f"shard.labels={labels}"), folder / "d")
    return int(open_split(folder / "d", "train").videos["num_frames"].sum())


def ffmpeg(files: list[Path], source: Path, folder: Path) -> int:
    """Write a folder of JPEGs a video; return the frames."""

    def convert(index: int) -> None:
        (folder / str(index)).mkdir()
        scale = "scale=-2:'min(256,ih)'"  # as the original's script, but never enlarged
        command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(files[index]), "-vf", scale]
        command += ["-threads", "1", "-q:v", "2", str(folder / str(index) / "%05d.jpg")]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(num_cpus()) as pool:
        list(pool.map(convert, range(len(files))))
    return sum(len(names) for _, _, names in os.walk(folder))


def main(source: Path) -> None:
    """Print a line a round, and the medians."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    rates = {"tin": [], "ffmpeg": []}
    for _ in range(ROUNDS):
        for name, convert in (("tin", ours), ("ffmpeg", ffmpeg)):
            with tempfile.TemporaryDirectory() as folder:
                cpu, start = cpu_seconds(), time.perf_counter()
                frames = convert(files, source, Path(folder))
                wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
                size = sum(file.stat().st_size for file in Path(folder).rglob("*.*"))
            rates[name].append((frames / wall, frames / cpu))
            print(
                f"{name:7} {len(files)} videos, {frames} frames in {wall:.2f} s, {cpu:.2f} s CPU:"
                f" {frames / wall:.0f} frames/s, {size / frames / 1e3:.1f} KB a frame"
            )
    wall, cpu = ([median(r[i] for r in rates[n]) for n in ("tin", "ffmpeg")] for i in (0, 1))
    print(f"frames/s, median of {ROUNDS}: tin {wall[0]:.0f}, ffmpeg {wall[1]:.0f}", end="")
    print(f" = {wall[0] / wall[1]:.2f} x; by CPU time {cpu[0] / cpu[1]:.2f} x")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
