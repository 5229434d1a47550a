"""Starts the ranks of a run as processes that can be killed, with torch already imported."""

import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tin.training.trainer", "tin.evaluation.evaluate"])


def start_ranks(world_size: int, function: Callable[..., None], *args: object) -> list[BaseProcess]:
    """Start `function(*args)` on each rank of a world, as torchrun would, and return them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = [
        FORK.Process(target=_run, args=(rank, world_size, port, function, args))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def kill(ranks: list[BaseProcess]) -> None:
    """Send SIGKILL to all ranks and wait for their end."""
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()


def finish(ranks: list[BaseProcess], timeout_s: float = 300) -> list[int | None]:
    """Wait for all ranks; return their exit codes (None: killed here, out of time)."""
    for rank in ranks:
        rank.join(timeout_s)
    codes = [rank.exitcode for rank in ranks]
    kill(ranks)
    return codes


def _run(rank: int, world_size: int, port: int, function: Callable, args: tuple) -> None:
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, stream=sys.stderr)
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    function(*args)
