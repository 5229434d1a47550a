"""Compares the measured times of the operator with its targets; exits with 1 if one is missed.

    python -m tests.bench_interlace [op.json of tin bench op]

Without a file it first measures batches of 4 clips. The targets hold for float32 and contiguous
tensors, as the geometric mean over the stages of ResNet-50. The results for channels_last are
printed too, but they have no target.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

TARGETS = (  # device, pass, what the operator is compared with, largest share of its time
    ("cpu", "forward", "copy", 1.15),
    ("cpu", "forward+backward", "copy", 1.3),
    ("cpu", "forward", "two shifts", 1 / 5),
    ("cpu", "forward+backward", "two shifts", 1 / 5),
    ("cuda", "forward", "copy", 1.15),
    ("cuda", "forward+backward", "copy", 1.3),
    ("cuda", "forward", "two shifts", 1 / 5),
    ("cuda", "forward+backward", "two shifts", 1 / 5),
)


def measured(path: str | None) -> dict[str, Any]:
    """Return the results in a file of `tin bench op`; without a path, measure them first."""
    if path is None:
        from tin.bench.cases import bench_op

        path = "op.json"
        bench_op(seconds=1.0, clips=[4]).save(Path(path))
    return json.loads(Path(path).read_text())


def ratio(results: dict[str, Any], direction: str, layout: str, other: str) -> float:
    """Return the operator's time as a share of that of another way, over all stages."""
    return statistics.geometric_mean(
        row["ways"]["interlace"]["ratio"] / row["ways"][other]["ratio"]
        for row in results["rows"]
        if (row["pass"], row["layout"]) == (direction, layout)
        and (row["dtype"], row["clips"]) == ("float32", 4)
    )


def main(path: str | None) -> int:
    """Print each result beside its target; return 1 if a target is missed."""
    results = measured(path)
    device = results["environment"]["device"].partition(":")[0]
    missed = False
    for target_device, direction, other, most in TARGETS:
        if target_device != device:
            continue
        contiguous = ratio(results, direction, "contiguous", other)
        missed |= contiguous > most
        print(f"{device} {direction} contiguous: {contiguous:.3f} of {other}, target {most:.2f}")
        channels_last = ratio(results, direction, "channels_last", other)
        print(f"{device} {direction} channels_last: {channels_last:.3f} of {other}, no target")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
