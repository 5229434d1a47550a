"""Decodes the frames of a dataset as fast as it can, in every way that this machine has.

    python -m tests.bench_decode DATASET [OUT.json]

Whole frames are decoded by threads of the CPU, and on a GPU by DALI with several shares of the work
for the hardware decoder. Batches of decoded clips are uploaded from pageable and pinned memory.
Each row is printed, and written to OUT.json, as soon as it is measured.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from configs.files import write_text
from preprocess.shards import open_split, shard_name

FRAMES = 256  # 32 clips of 8 frames
ROUNDS = 5
HARDWARE_LOADS = (0.0, 0.5, 0.75, 1.0)


def median_s(call: Callable[[], object]) -> float:
    """Return the median time of a call, after one call that is not timed."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def jpegs_of(folder: Path) -> list[np.ndarray]:
    """Return the first frames of the dataset as JPEG files; they repeat if it is small."""
    split = open_split(folder, "train")
    shards: dict[int, np.memmap] = {}
    found = []
    for row in split.frames[:FRAMES]:
        shard = int(row["shard"])
        if shard not in shards:
            shards[shard] = np.memmap(folder / shard_name(split.name, shard), np.uint8, "r")
        start = int(row["offset"])
        found.append(np.array(shards[shard][start : start + int(row["size"])]))
    return [found[index % len(found)] for index in range(FRAMES)]


def dali_rows(jpegs: list[np.ndarray]) -> list[dict[str, object]]:
    """Return the clips per second of DALI's decoder of whole frames on the GPU."""
    import nvidia.dali.fn as fn
    from nvidia.dali import Pipeline

    rows: list[dict[str, object]] = []
    for load in HARDWARE_LOADS:
        pipeline = Pipeline(batch_size=FRAMES, num_threads=4, device_id=0, prefetch_queue_depth=1)
        with pipeline:
            source = fn.external_source(source=lambda: jpegs, ndim=1)
            pipeline.set_outputs(fn.decoders.image(source, device="mixed", hw_decoder_load=load))
        pipeline.build()
        seconds = median_s(pipeline.run)
        rows.append({"way": f"DALI, hardware load {load}", "clips_per_s": FRAMES / 8 / seconds})
    return rows


def main(dataset: str, out: str | None) -> None:
    """Measure each way, and print and write its row."""
    rows: list[dict[str, object]] = []

    def add(row: dict[str, object]) -> None:
        rows.append(row)
        print(row, flush=True)
        if out:
            write_text(Path(out), json.dumps(rows, indent=1) + "\n")

    jpegs = jpegs_of(Path(dataset))
    add({"way": "size", "kb_a_frame": sum(map(len, jpegs)) / FRAMES / 1e3})
    for threads in (1, 2, 4, 8, 16):
        if threads > len(os.sched_getaffinity(0)):
            break
        with ThreadPoolExecutor(threads) as pool:
            seconds = median_s(lambda: list(pool.map(simplejpeg.decode_jpeg, jpegs)))
        add({"way": f"whole frames, {threads} threads", "clips_per_s": FRAMES / 8 / seconds})
    if not torch.cuda.is_available():
        return
    clips = torch.zeros(FRAMES, 224, 224, 3, dtype=torch.uint8)
    for name, batch in (("pageable", clips), ("pinned", clips.pin_memory())):

        def upload(batch: torch.Tensor = batch) -> None:
            batch.to("cuda", non_blocking=True)
            torch.cuda.synchronize()

        add({"way": f"upload of 32 clips, {name}", "ms": 1e3 * median_s(upload)})
    try:
        for row in dali_rows(jpegs):
            add(row)
    except ImportError:
        print("DALI is missing, so decoding on the GPU is left out")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.bench_decode DATASET [OUT.json]")
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
