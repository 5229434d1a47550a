"""Measures the CPU time of a training step with and without the times of slow ranks.

    python -m tests.bench_step RANKS [STEPS]

Each process trains a small network, and every second step runs without the measurement, so that
both kinds of steps meet the same load of the machine. The time is the CPU time of all threads of
the process, from the start of a step to the start of the next one.
"""

import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from any_ranks_runs import replace_backbone
from rank_processes import finish, start_ranks
from short_runs import ONE_EPOCH, train_run
from synthetic_dataset import write_dataset

from tin.ranks.step_times import StepTimes

WARM_UP = 10


def train(folder: Path) -> None:
    """Train on this rank, and write the CPU time of each step to times-<rank>.txt."""
    replace_backbone()
    began: list[float] = []
    start = StepTimes.start
    watch = StepTimes._watch_backward

    def measured_start(times: StepTimes) -> None:
        began.append(time.process_time())
        if len(began) % 2:
            start(times)

    def measured_watch(times: StepTimes, *arguments) -> None:
        if len(began) % 2:
            watch(times, *arguments)

    StepTimes.start = measured_start
    StepTimes._watch_backward = measured_watch
    settings = ("run.log_steps=100000", "run.check_node=false", *ONE_EPOCH)
    train_run(folder / "run", f"data.dataset={folder / 'data'}", *settings)
    steps = [after - before for before, after in itertools.pairwise(began)]
    rank = os.environ.get("RANK", "0")
    (folder / f"times-{rank}.txt").write_text("\n".join(map(repr, steps)))


def main() -> None:
    num_ranks = int(sys.argv[1])
    num_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", [5] * (4 * num_steps))
        codes = finish(start_ranks(num_ranks, train, folder), 3600)
        assert set(codes) == {0}, codes
        for rank in range(num_ranks):
            text = (folder / f"times-{rank}.txt").read_text()
            steps = [float(line) for line in text.split()][WARM_UP:]
            with_times = steps[::2]  # WARM_UP is even, so steps with the measurement come first
            without = steps[1::2]
            differences = [a - b for a, b in zip(with_times, without, strict=False)]
            error = statistics.stdev(differences) / len(differences) ** 0.5
            plain = statistics.median(without)
            print(
                f"rank {rank} of {num_ranks}: {1e3 * statistics.median(with_times):.3f} ms with,"
                f" {1e3 * plain:.3f} ms without the times; mean difference"
                f" {1e3 * statistics.fmean(differences):.3f} ± {1e3 * error:.3f} ms"
                f" ({len(differences)} pairs)"
            )


if __name__ == "__main__":
    main()
