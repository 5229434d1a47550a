"""Times the parts of a run outside of its steps: arithmetic, all-reduce, checkpoint, evaluation."""

import statistics
import time

import torch
import torch.distributed as dist
from torch import nn

from configs.schema import Config
from pipeline.loader import ClipLoader
from tin.bench.input_parts import synchronize
from tin.evaluation.evaluate import evaluate
from tin.models.size import count
from tin.ranks.distributed import World
from tin.runs import checkpoint
from tin.training.state import TrainingState

MATRIX = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product shows how fast a device computes."""
WARM_PRODUCTS = 2
NUM_PRODUCTS = 7
MAX_REPEATS = 10
FIRST_BUCKET = 2**20 // 4
"""Numbers in the first bucket of DDP, which is small so that its all-reduce starts early."""
BUCKET = 25 * 2**20 // 4
"""Numbers in the other buckets of DDP."""


def efficiency(state: TrainingState, config: Config, pass_s: float) -> float:
    """Return the speed of a pass as a fraction of the speed of a product of two large matrices.

    The backward pass has twice the multiply-adds of the forward pass.

    Args:
        state: the model.
        config: settings with the clips of the pass.
        pass_s: seconds of the forward and backward pass.
    """
    half = state.precision == "bfloat16"
    rate = _products_per_s(state.world.device, torch.bfloat16 if half else torch.float32)
    _, giga = count(state.model, config)
    clips = config.train.batch // state.world.world_size
    return 3e9 * giga * clips / rate / pass_s


def _products_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the multiply-adds per second of a product of two large matrices."""
    side = MATRIX[device.type]
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    taken = []
    for _ in range(WARM_PRODUCTS + NUM_PRODUCTS):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return side**3 / statistics.median(taken[WARM_PRODUCTS:])


def gradient_bytes(model: nn.Module) -> int:
    """Return the bytes of the gradients that the ranks sum in a step."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def all_reduce_s(world: World, num_bytes: int, seconds: float) -> float:
    """Return the seconds of summing `num_bytes` of float32 over all ranks; 0 for a single rank.

    The numbers are summed in pieces, as DDP sums its buckets: a small one first, then large ones.
    """
    if world.world_size == 1:
        return 0.0
    values = torch.zeros(num_bytes // 4, device=world.device)
    buckets = [values[:FIRST_BUCKET], *values[FIRST_BUCKET:].split(BUCKET)]

    def call() -> None:
        for bucket in buckets:
            dist.all_reduce(bucket)

    # All ranks must call equally often: rank 0 decides how often.
    call()
    world.barrier()
    began = time.perf_counter()
    call()
    synchronize(world.device)
    first_s = time.perf_counter() - began
    repeats = world.broadcast(max(2, min(MAX_REPEATS, int(seconds / first_s))))
    taken = []
    for _ in range(repeats):
        world.barrier()
        began = time.perf_counter()
        call()
        synchronize(world.device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def checkpoint_s(state: TrainingState, seconds: float) -> tuple[float, float]:
    """Return the seconds of writing a checkpoint, and its size in 10^6 bytes; 0 on other ranks."""
    if not state.world.is_main:
        return 0.0, 0.0
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or (len(taken) < MAX_REPEATS and time.perf_counter() < end):
        began = time.perf_counter()
        state.save([0.0] * 4)
        taken.append(time.perf_counter() - began)
    path = checkpoint.newest(state.run)
    assert path, "a checkpoint was written just now"
    return statistics.median(taken), path.stat().st_size / 1e6


def evaluation_s(state: TrainingState, loader: ClipLoader, seconds: float) -> float:
    """Return the seconds of a step of an evaluation, measured on the first steps of a split.

    Args:
        state: the model, and the ranks, all of which must call.
        loader: a loader of the test split; afterwards it has fewer steps.
        seconds: about how long to measure.
    """
    num_steps = loader.num_steps

    def timed(steps: int) -> float:
        loader.num_steps = steps
        began = time.perf_counter()
        loss = state.config.train.loss
        evaluate(state.evaluated_model, loader, state.world, state.precision, loss)
        return time.perf_counter() - began

    timed(1)  # starts threads
    fitting = max(1, int(seconds / timed(1)))
    steps = state.world.broadcast(min(num_steps, fitting))
    taken = timed(steps)
    state.train_mode()
    return taken / steps
