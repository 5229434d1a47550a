"""Starts the ranks of a run as processes that tests can kill; torch is already imported there."""

import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tin.training.trainer", "tin.evaluation.evaluate"])


def start_ranks(world_size: int, function: Callable[..., None], *args: object) -> list[BaseProcess]:
    """Start `function(*args)` on each rank, with the variables that torchrun sets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks: list[BaseProcess] = [
        FORK_SERVER.Process(target=_run, args=(rank, world_size, port, function, args))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def kill(ranks: list[BaseProcess]) -> None:
    """Send SIGKILL to all ranks and wait until they have ended."""
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.join()


def finish(ranks: list[BaseProcess], timeout_s: float = 300) -> list[int | None]:
    """Wait for all ranks and return their exit codes; None stands for a rank that timed out.

    Ranks that time out are killed.
    """
    for rank in ranks:
        rank.join(timeout_s)
    codes = [rank.exitcode for rank in ranks]
    kill(ranks)
    return codes


def _run(
    rank: int, world_size: int, port: int, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
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
