"""Ranks: who takes part in a run, and the few words that they exchange outside DDP."""

import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from configs.errors import TinError

log = logging.getLogger(__name__)
RENDEZVOUS = timedelta(minutes=3)


class RendezvousError(TinError):
    """The ranks of a run did not find each other."""


@dataclass(frozen=True)
class World:
    """One rank among `world_size`, and the device that it computes on."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """gloo group for words between CPUs; None for a rank alone."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.group:
            dist.barrier(self.group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of `values` over all ranks, on each of them."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.group:
            dist.all_reduce(total, group=self.group)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank."""
        words = [value]
        if self.group:
            dist.broadcast_object_list(words, src=0, group=self.group)
        return words[0]

    def gather(self, value: Any) -> list[Any] | None:
        """Return the values of all ranks, in their order, on rank 0; None elsewhere."""
        if not self.group:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers (BatchNorm statistics) of rank 0."""
        if self.group:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextlib.contextmanager
def start(device: str = "auto") -> Iterator[World]:
    """Join the ranks that torchrun or srun started; a process of its own is a world of one.

    Args:
        device: auto, cpu or cuda. On CUDA each rank of a node takes the GPU of its number.

    Raises:
        RendezvousError: the address of rank 0 is unknown or nobody answers there.
        ValueError: a GPU is asked for and there is none.
    """
    rank, local_rank, world_size = _place()
    chosen = _device(device, local_rank)
    if world_size == 1:
        yield World(rank, local_rank, world_size, chosen)
        return
    group = _meet(rank, world_size, chosen)
    try:
        yield World(rank, local_rank, world_size, chosen, group)
    finally:
        dist.destroy_process_group()


def cpus() -> int:
    """Return how many CPUs this rank may use: those of the task, shared by its node's ranks."""
    allowed = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    if given and "SLURM_STEP_ID" in os.environ:
        return max(1, min(allowed, int(given)))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _place() -> tuple[int, int, int]:
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env.get("LOCAL_RANK", "0")), int(env["WORLD_SIZE"])
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # set by srun, not by sbatch or salloc
        rank, world_size = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
        if "MASTER_ADDR" not in env:  # a batch script of ours sets it: a container has no scontrol
            env["MASTER_ADDR"] = _first_node(env["SLURM_STEP_NODELIST"])
        env.setdefault("MASTER_PORT", str(_port()))
        env.update(RANK=str(rank), WORLD_SIZE=str(world_size))
        return rank, int(env["SLURM_LOCALID"]), world_size
    return 0, 0, 1


def _first_node(nodes: str) -> str:
    command = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _port() -> int:
    """Return a port that a requeued job does not share with its dying predecessor."""
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
    job, restart, step = (int(os.environ.get(name, "0")) for name in names)
    return 20000 + (job * 101 + restart * 7 + step) % 12000


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("run.device is cuda, but torch sees no GPU; set run.device=cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _meet(rank: int, world_size: int, device: torch.device) -> dist.ProcessGroup:
    address = os.environ.get("MASTER_ADDR", "")
    where = f"{address or '(MASTER_ADDR is not set)'}:{os.environ.get('MASTER_PORT', '')}"
    try:
        socket.getaddrinfo(address or None, os.environ.get("MASTER_PORT"))
    except OSError as error:
        raise RendezvousError(
            f"rank {rank} on {socket.gethostname()} cannot resolve rank 0's address {where}"
            f" ({error}); set MASTER_ADDR to a name or address that every node knows"
        ) from None
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, world_size = next(
            dist.rendezvous("env://", rank, world_size, timeout=RENDEZVOUS)
        )
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        return dist.new_group(backend="gloo")
    except (dist.DistError, RuntimeError) as error:
        raise RendezvousError(
            f"rank {rank} of {world_size} on {socket.gethostname()} met nobody at {where} within"
            f" {RENDEZVOUS.seconds} s: {error}; check the network between the nodes and, with"
            " several interfaces, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from None
