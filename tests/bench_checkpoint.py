"""Measures what the checks of a checkpoint cost.

    python -m tests.bench_checkpoint [MEGABYTES]

torch.load alone and the checked reader alternate; the medians of their CPU times are compared.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tin.runs import checkpoint
from tin.runs.folder import Run

ROUNDS = 7


def main(megabytes: int) -> None:
    """Print the CPU seconds per GB of both readers."""
    torch.set_num_threads(1)
    count = max(1, megabytes // 4)
    weights = {f"layer{i}": torch.randn(1_000_000) for i in range(count)}
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        path = checkpoint.save(run, {"global_step": 1, "model": weights})
        size = path.stat().st_size / 1e9
        plain: list[float] = []
        checked: list[float] = []
        for _ in range(ROUNDS):
            plain.append(_seconds(lambda: torch.load(path, weights_only=True)))
            checked.append(_seconds(lambda: checkpoint.load(path)))
    one = statistics.median(plain) / size
    two = statistics.median(checked) / size
    print(
        f"{size:.2f} GB: torch.load {one:.2f} s/GB, checked {two:.2f} s/GB, +{two - one:.2f} s/GB"
    )


def _seconds(read: Callable[[], object]) -> float:
    began = time.process_time()
    read()
    return time.process_time() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
