"""Compares predicted with measured steps of two ranks, a CPU core each.

    python -m tests.bench_scale DATASET [section.key=value ...]

The prediction takes a step of one rank on one core and an all-reduce of two ranks, both measured in
the same round, and `two_ranks_step_s` of tin/bench/scale.py. `train.batch` is that of each rank.
Four ranks share the two cores; they are only shown.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from rank_processes import finish, start_ranks

from configs.load import load as load_settings
from tin.bench import doctor
from tin.bench.diagnosis import COMPUTE, Diagnosis, load
from tin.bench.scale import two_ranks_step_s
from tin.ranks.distributed import start

ROUNDS = 5
SECONDS = 12.0
CORES = sorted(os.sched_getaffinity(0))[:2]


def examine_rank(out: Path, dataset: str, settings: list[str], world_size: int) -> None:
    """Examine a run on this rank, which has a core of its own if there are two ranks at most."""
    rank = int(os.environ.get("RANK", "0"))
    os.sched_setaffinity(0, {CORES[rank % len(CORES)]})
    given = ["run.threads=1", "run.device=cpu", *settings, f"data.dataset={dataset}"]
    config = load_settings("demo", given)
    train = config.train.model_copy(update={"batch": config.train.batch * world_size})
    config = config.model_copy(update={"train": train})
    doctor.LONGEST_STEP = 1.0  # measure all clips of a step: small passes are not proportional
    with start("cpu") as world:
        found = doctor.examine(
            config.model_copy(update={"train": train}), out.parent, world, SECONDS
        )
    if found:
        found.save(out)


def measure(world_size: int, dataset: str, settings: list[str]) -> Diagnosis:
    """Return what ranks on this machine have measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        codes = finish(start_ranks(world_size, examine_rank, out, dataset, settings, world_size))
        assert codes == [0] * world_size, codes
        return load(out)


def computing_ms(found: Diagnosis) -> float:
    """Return the milliseconds of a step without its input and without the all-reduce."""
    return 1e3 * sum(found.times.of(part) for part in COMPUTE)


def main(dataset: str, settings: list[str]) -> None:
    """Print a line for each round, and the median of the ratios."""
    ratios = []
    for number in range(ROUNDS):
        one = measure(1, dataset, settings)
        two = measure(2, dataset, settings)
        predicted = two_ranks_step_s(one, two.times.all_reduce)
        ratios.append(predicted / two.times.step)
        print(
            f"round {number + 1}: one rank {1e3 * one.times.step:.0f} ms, all-reduce"
            f" {1e3 * two.times.all_reduce:.0f} ms; two ranks: predicted {1e3 * predicted:.0f} ms,"
            f" measured {1e3 * two.times.step:.0f} ms, ratio {ratios[-1]:.3f}"
            f" (computing alone: {computing_ms(one):.0f} and {computing_ms(two):.0f} ms)",
            flush=True,
        )
    four = measure(4, dataset, settings)
    print(f"four ranks on two cores: {1e3 * four.times.step:.0f} ms")
    print(f"predicted / measured, median of {ROUNDS}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
