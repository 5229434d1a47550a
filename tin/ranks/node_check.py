"""Node checks before the first step: disk, memory, arithmetic and the network between ranks."""

import logging
import os
import shutil
import statistics
import time
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from configs.errors import TinError
from configs.node import node_name
from tin.ranks.distributed import World

log = logging.getLogger(__name__)
MATRIX_SIDE = 512
MIN_FREE_BYTES = 10**9  # of memory; less free disk space only logs a warning
MIN_FREE_GPU = 0.8  # share of a GPU's memory
ALL_REDUCE_BYTES = 4 * 2**20
SLOW = 4.0  # times the median of all ranks
SLOW_S = 0.1  # shorter times are mostly noise


class NodeError(TinError):
    """This node fails a check; the message names the node and the reason."""

    blames_node = True


def check_node(world: World, run_dir: Path) -> None:
    """Write, compute and communicate a little on every rank, to find a faulty node in seconds.

    Args:
        world: the ranks; all of them must call.
        run_dir: folder of the run, which every node must be able to write to.

    Raises:
        NodeError: a check fails on this node.
    """
    began = time.monotonic()
    _check_disk(run_dir)
    _check_memory(world.device)
    compute_s = _time_matrix_product(world.device)
    bandwidth = _all_reduce_bandwidth(world)
    times = world.gather((node_name(), compute_s))
    if not times:
        return
    # A slow rank delays every step of all ranks, so it is worth a warning.
    median = statistics.median_high(seconds for _, seconds in times)
    for node, seconds in times:
        if seconds > SLOW * median and seconds > SLOW_S:
            log.warning("%s computes %.1f times slower than the median", node, seconds / median)
    log.info(
        "node checks passed: nodes %d, ranks %d%s (%.1f s)",
        len({node for node, _ in times}),
        len(times),
        f", all-reduce {bandwidth / 1e9:.2f} GB/s" if bandwidth else "",
        time.monotonic() - began,
    )


def _check_disk(run_dir: Path) -> None:
    probe = run_dir / f".probe-{node_name()}-{os.getpid()}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise NodeError(f"{node_name()} cannot write {run_dir}: {error.strerror}") from None
    free = shutil.disk_usage(run_dir).free
    if free < MIN_FREE_BYTES:
        log.warning("%s: only %.2f GB are free; a checkpoint may not fit", run_dir, free / 1e9)


def _check_memory(device: torch.device) -> None:
    available = psutil.virtual_memory().available
    if available < MIN_FREE_BYTES:
        raise NodeError(
            f"{node_name()} has only {available / 1e9:.2f} GB of free memory;"
            f" training needs at least {MIN_FREE_BYTES / 1e9:.2f} GB"
        )
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        if free < MIN_FREE_GPU * total:
            raise NodeError(
                f"{node_name()}: only {free / 1e9:.0f} of {total / 1e9:.0f} GB of {device}"
                f" are free, at least {100 * MIN_FREE_GPU:.0f} % must be; another process uses it"
            )


def _time_matrix_product(device: torch.device) -> float:
    """Return the seconds of a matrix product, after comparing it with its exact result."""
    # All rows are the same -1, 0, 1, -1, ..., so each entry of the product is the sum of squares
    # of one row: a whole number, which float32 holds exactly.
    row = torch.arange(MATRIX_SIDE, device=device).remainder(3).sub(1).float()
    matrix = row.expand(MATRIX_SIDE, MATRIX_SIDE).contiguous()
    began = time.monotonic()
    try:
        product = (matrix @ matrix.T).cpu()
    except RuntimeError as error:
        raise NodeError(f"{node_name()}: {device} cannot compute: {error}") from None
    seconds = time.monotonic() - began
    if not torch.equal(product, torch.full((MATRIX_SIDE, MATRIX_SIDE), row.square().sum().item())):
        raise NodeError(f"{node_name()}: {device} computes wrong numbers")
    return seconds


def _all_reduce_bandwidth(world: World) -> float:
    """Return the bytes/s of an all-reduce of one buffer; 0 for a single rank."""
    if world.world_size == 1:
        return 0.0
    buffer = torch.ones(ALL_REDUCE_BYTES // 4, device=world.device)
    dist.all_reduce(buffer)  # the first one opens the connections
    buffer.cpu()  # waits for a GPU
    began = time.monotonic()
    dist.all_reduce(buffer)
    # Each of the two all-reduces multiplies the ones by the number of ranks.
    if buffer[0].item() != world.world_size**2:
        raise NodeError(f"{node_name()}: all-reduce gives wrong numbers")
    return ALL_REDUCE_BYTES / (time.monotonic() - began)
