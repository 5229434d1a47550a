"""The ranks of a run, and small collectives outside DDP (flags, counts, buffers)."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from configs.errors import TinError
from configs.node import node_name

RENDEZVOUS_TIMEOUT = timedelta(minutes=3)
FIRST_PORT = 20000
NUM_PORTS = 12000  # ends below 32768, where Linux begins to assign ports by itself
T = TypeVar("T")


class RendezvousError(TinError):
    """The ranks of a run cannot reach each other."""


class DeviceError(TinError, ValueError):
    """The settings ask for a device that this machine does not have."""

    is_final = True


@dataclass(frozen=True)
class World:
    """One rank of a run, the device that it computes on, and collectives between all ranks."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """gloo group for values on the CPU; None for a single process."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.group:
            dist.barrier(self.group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of `values` over all ranks, on every rank."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.group:
            dist.all_reduce(total, group=self.group)
        return total.tolist()

    def all_reduce(self, values: torch.Tensor) -> None:
        """Replace `values`, on this rank's device, by their sums over all ranks."""
        if self.group:
            dist.all_reduce(values)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's `value` on every rank."""
        values = [value]
        if self.group:
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks, in the order of the ranks, on rank 0; None elsewhere."""
        if not self.group:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of rank 0's tensors into those of every rank."""
        if self.group:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)


class _Place(NamedTuple):
    """The place of this process among the ranks."""

    rank: int
    local_rank: int
    world_size: int


@contextlib.contextmanager
def start(device: str = "auto") -> Iterator[World]:
    """Join the ranks that torchrun or srun started; a single process is a world of one rank.

    Args:
        device: auto, cpu or cuda. With CUDA, each rank of a node uses the GPU of its local rank.

    Raises:
        RendezvousError: the address of rank 0 cannot be resolved, or rank 0 cannot be reached.
        DeviceError: `device` is cuda and there is no GPU.
    """
    place = _place()
    chosen = _device(device, place.local_rank)
    if place.world_size == 1:
        yield World(place.rank, place.local_rank, place.world_size, chosen)
        return
    group = _join(place.rank, place.world_size, chosen)
    try:
        yield World(place.rank, place.local_rank, place.world_size, chosen, group)
    finally:
        dist.destroy_process_group()


def cpus() -> int:
    """Return how many CPUs this rank may use: those of its Slurm task, or its share of a node."""
    allowed = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    if given and "SLURM_STEP_ID" in os.environ:
        return max(1, min(allowed, int(given)))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _place() -> _Place:
    """Read the place of this process from the variables of torchrun, or else from those of srun."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return _Place(int(env["RANK"]), int(env.get("LOCAL_RANK", "0")), int(env["WORLD_SIZE"]))
    # srun sets this variable; sbatch and salloc do not
    world_size = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if world_size == 1:
        return _Place(0, 0, 1)
    rank = int(env["SLURM_PROCID"])
    # torch reads these four variables in `dist.rendezvous`. Our batch scripts set MASTER_ADDR,
    # because a container has no scontrol.
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = _first_node(env["SLURM_STEP_NODELIST"])
    env.setdefault("MASTER_PORT", str(_port()))
    env.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    return _Place(rank, int(env["SLURM_LOCALID"]), world_size)


def _first_node(nodes: str) -> str:
    command = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _port() -> int:
    """Return a port that a requeued job does not share with its predecessor, which may linger."""
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    step = int(os.environ.get("SLURM_STEP_ID", "0"))
    return FIRST_PORT + (job * 101 + restart * 7 + step) % NUM_PORTS


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"run.device is cuda, but torch finds no GPU on {node_name()};"
            " set run.device=cpu or use a node with a GPU"
        )
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _join(rank: int, world_size: int, device: torch.device) -> dist.ProcessGroup:
    """Start the default group of DDP (nccl or gloo), and return a gloo group beside it."""
    address = os.environ.get("MASTER_ADDR", "")
    where = f"{address or '(MASTER_ADDR is not set)'}:{os.environ.get('MASTER_PORT', '')}"
    # Resolve the address first: torch would retry a wrong name until its timeout.
    try:
        socket.getaddrinfo(address or None, os.environ.get("MASTER_PORT"))
    except OSError as error:
        raise RendezvousError(
            f"rank {rank} on {node_name()} cannot resolve rank 0's address {where}"
            f" ({error}); set MASTER_ADDR to a name or address that every node can resolve"
        ) from None
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        meeting = dist.rendezvous("env://", rank, world_size, timeout=RENDEZVOUS_TIMEOUT)
        store = next(meeting)[0]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        return dist.new_group(backend="gloo")
    except (dist.DistError, RuntimeError) as error:
        raise RendezvousError(
            f"rank {rank} of {world_size} on {node_name()} cannot reach rank 0 at {where}"
            f" within {RENDEZVOUS_TIMEOUT.seconds} s: {error}; check the network between the nodes."
            " If nodes have several network interfaces, set GLOO_SOCKET_IFNAME and"
            " NCCL_SOCKET_IFNAME"
        ) from None
