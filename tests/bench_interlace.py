"""The operator against what it is built for (DESIGN.md, section 12); leaves with 1 if it is short.

    python tests/bench_interlace.py [op.json of tin bench op]

Without a file it measures batches of 4 clips first. The aims hold for float32, contiguous, over the
geometric mean of ResNet-50's stages; channels_last is printed beside it.
"""

import json
import statistics
import sys
from pathlib import Path

AIMS = (  # device, pass, way that the operator is compared with, at most so much of its time
    ("cpu", "forward", "copy", 1.2),
    ("cpu", "forward", "two shifts", 1 / 5),
    ("cpu", "forward+backward", "two shifts", 1 / 5),
    ("cuda", "forward", "copy", 1.15),
    ("cuda", "forward+backward", "copy", 1.3),
    ("cuda", "forward", "two shifts", 1 / 5),
    ("cuda", "forward+backward", "two shifts", 1 / 5),
)


def measured(path: str | None) -> dict:
    if path is None:
        from tin.bench.cases import bench_op

        path = "op.json"
        bench_op(seconds=1.0, clips=[4]).save(Path(path))
    return json.loads(Path(path).read_text())


def main(path: str | None) -> int:
    found, short = measured(path), False
    device = found["environment"]["device"].partition(":")[0]
    for aimed, step, other, most in AIMS:
        for layout in ("contiguous", "channels_last") if aimed == device else ():
            ratio = statistics.geometric_mean(
                row["ways"]["interlace"]["ratio"] / row["ways"][other]["ratio"]
                for row in found["rows"]
                if (row["pass"], row["layout"]) == (step, layout)
                and (row["dtype"], row["clips"]) == ("float32", 4)
            )
            aim = f"aim {most:.2f}" if layout == "contiguous" else "no aim"
            print(f"{device} {step} {layout}: {ratio:.3f} of {other}, {aim}")
            short |= layout == "contiguous" and ratio > most
    return int(short)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
