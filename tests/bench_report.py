"""Measures the report of many runs: time, size of the page, and time until its table can be used.

    python -m tests.bench_report [NUM_RUNS ...]

Default: 12 and 500 runs. Each run has 20 epochs, a test of 1,000 videos and 174 classes, and no
dataset, so there are no strips. The first report computes the intervals of each test and keeps
them; the second reads them. Chromium opens the page from a file.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))
from browser import chromium, open_page, problems
from report_runs import write_sweep

ROUNDS = 3


def report_seconds(folder: Path) -> float:
    """Return how long `tin report` takes for the runs of a folder."""
    command = [sys.executable, "-m", "launch", "report", "runs", "--out", "report", "--quiet"]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def seconds_to_open(folder: Path, number: int) -> float:
    """Return how long a new browser takes until the table of the page sorts and filters."""
    with chromium(folder / f"profile-{number}") as driver:
        start = time.perf_counter()
        open_page(driver, folder / "report" / "results.html")
        elapsed = time.perf_counter() - start
        if problems(driver):
            sys.exit(f"the console shows {problems(driver)}")
    return elapsed


def main() -> None:
    """Print a Markdown table with one row for each number of runs."""
    print("| runs | first report, s | next report, s | page, MB | table usable after, s |")
    print("|---|---|---|---|---|")
    for num_runs in [int(word) for word in sys.argv[1:]] or [12, 500]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_sweep(folder / "runs", num_runs, num_classes=174, num_videos=1000)
            first = report_seconds(folder)
            following = sorted(report_seconds(folder) for _ in range(ROUNDS))[ROUNDS // 2]
            opening = sorted(seconds_to_open(folder, n) for n in range(ROUNDS))[ROUNDS // 2]
            size = (folder / "report" / "results.html").stat().st_size / 1e6
            print(
                f"| {num_runs} | {first:.1f} | {following:.1f} | {size:.1f} | {opening:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
