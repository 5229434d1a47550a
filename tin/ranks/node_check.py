"""Node checks before the first step: a node that cannot compute, write or communicate is named."""

import logging
import os
import shutil
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist

from configs.errors import TinError
from tin.ranks.distributed import World

log = logging.getLogger(__name__)
SIDE = 512
FREE_BYTES = 10**9
FREE_GPU = 0.8  # share of a GPU's memory
ALL_REDUCE_BYTES = 4 * 2**20
SLOW = 4.0  # times the median of all ranks


class NodeError(TinError):
    """This node cannot do its part; the message names it and says why."""

    blames_node = True


def check_node(world: World, folder: Path) -> None:
    """Compute, write and talk a little on every rank, so that an unfit node is found at once.

    Args:
        world: the ranks; all of them must call.
        folder: of the run, which must be writable here.

    Raises:
        NodeError: names the node, and what it cannot do.
    """
    began = time.monotonic()
    _check_disk(folder)
    _check_memory(world.device)
    compute_s = _check_product(world.device)
    bandwidth = _all_reduce_bandwidth(world)
    times = world.gather((socket.gethostname(), compute_s))
    if not times:
        return
    median = sorted(seconds for _, seconds in times)[len(times) // 2]
    for node, seconds in times:
        if seconds > SLOW * median and seconds > 0.1:
            log.warning("%s computes %.1f times slower than the others", node, seconds / median)
    talk = f", all-reduce {bandwidth / 1e9:.2f} GB/s" if bandwidth else ""
    nodes = len({node for node, _ in times})
    log.info(
        "%d nodes, %d ranks are fit%s (%.1f s)", nodes, len(times), talk, time.monotonic() - began
    )


def _check_disk(folder: Path) -> None:
    probe = folder / f".probe-{socket.gethostname()}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise NodeError(f"{socket.gethostname()} cannot write {folder}: {error.strerror}") from None
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        log.warning("%s: only %.2f GB are free; a checkpoint may not fit", folder, free / 1e9)


def _check_memory(device: torch.device) -> None:
    free = int(_meminfo("MemAvailable"))
    if free < FREE_BYTES:
        raise NodeError(f"{socket.gethostname()} has only {free / 1e9:.2f} GB of free memory")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        if free < FREE_GPU * total:
            raise NodeError(
                f"{socket.gethostname()}: of {total / 1e9:.0f} GB of {device} only"
                f" {free / 1e9:.0f} are free; another process is on it"
            )


def _check_product(device: torch.device) -> float:
    """Return the seconds of a matrix product whose result is known exactly."""
    rows = torch.arange(SIDE, device=device).remainder(3).sub(1).float()
    a = rows.expand(SIDE, SIDE).contiguous()
    began = time.monotonic()
    try:
        product = (a @ a.T).cpu()
    except RuntimeError as error:
        raise NodeError(f"{socket.gethostname()}: {device} cannot compute: {error}") from None
    seconds = time.monotonic() - began
    if not torch.equal(product, torch.full((SIDE, SIDE), rows.square().sum().item())):
        raise NodeError(f"{socket.gethostname()}: {device} computes wrong numbers")
    return seconds


def _all_reduce_bandwidth(world: World) -> float:
    """Return bytes/s that an all-reduce of one buffer gets through; 0 for a rank alone."""
    if world.world_size == 1:
        return 0.0
    buffer = torch.ones(ALL_REDUCE_BYTES // 4, device=world.device)
    dist.all_reduce(buffer)  # opens the connections
    buffer.cpu()
    began = time.monotonic()
    dist.all_reduce(buffer)
    if buffer[0].item() != world.world_size**2:
        raise NodeError(f"{socket.gethostname()}: all-reduce gives wrong numbers")
    return ALL_REDUCE_BYTES / (time.monotonic() - began)


def _meminfo(name: str) -> int:
    """Return a line of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return FREE_BYTES
