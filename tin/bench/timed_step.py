"""Times the parts of real training steps, without a copy of their code."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.batches import Batch
from pipeline.loader import ClipLoader
from tin.bench.input_parts import endless, synchronize
from tin.ranks.distributed import World
from tin.training.loaders import open_train_split
from tin.training.state import TrainingState
from tin.training.step import train_step

WARM_STEPS = 2
MIN_STEPS = 3
MAX_STEPS = 200


class TimedStep:
    """Runs training steps and notes when each of their parts ends.

    A wrapper around the model marks the begin and the end of the forward pass, and hooks of the
    optimizer mark the end of the backward pass. On a GPU, each mark waits for the device.
    """

    def __init__(self, state: TrainingState):
        self._state = state
        self._device = state.world.device
        self._replica = state.replica
        self._marks: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = defaultdict(list)
        """Seconds of each part, a value for each step."""
        state.replica = _Marked(self._replica, self._mark)
        self._hook = state.optimizer.register_step_pre_hook(
            lambda *_: self._mark("gradients are there")
        )

    def run(self, batch: Batch, all_reduce: bool = True) -> float:
        """Take a step on a batch; return its seconds.

        Args:
            batch: the clips of the step, which are on the device.
            all_reduce: whether the ranks sum their gradients. Without it their weights differ from
                then on, which does not change the times.
        """
        self._mark("begin")
        if isinstance(self._replica, DistributedDataParallel) and not all_reduce:
            with self._replica.no_sync():
                train_step(self._state, [batch])
        else:
            train_step(self._state, [batch])
        self._mark("end")
        marks = self._marks
        backward = marks["gradients are there"] - marks["end of forward"]
        self.seconds["augmentation"].append(marks["begin of forward"] - marks["begin"])
        self.seconds["forward"].append(marks["end of forward"] - marks["begin of forward"])
        self.seconds["backward" if all_reduce else "backward alone"].append(backward)
        self.seconds["optimizer"].append(marks["end"] - marks["gradients are there"])
        return marks["end"] - marks["begin"]

    def close(self) -> None:
        """Give the state its model back, and remove the hook."""
        self._state.replica = self._replica
        self._hook.remove()

    def _mark(self, what: str) -> None:
        synchronize(self._device)
        self._marks[what] = time.perf_counter()


class _Marked(nn.Module):
    """Calls a model between two marks."""

    def __init__(self, model: nn.Module, mark: Callable[[str], None]):
        super().__init__()
        self.model = model
        self._mark = mark

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the model returns."""
        self._mark("begin of forward")
        y: torch.Tensor = self.model(x)
        self._mark("end of forward")
        return y


def clip_s(state: TrainingState) -> float:
    """Return the seconds of a step of the state's own settings, on the slowest rank."""
    with contextlib.closing(open_train_split(state.config, state.world)) as loader:
        batch = next(iter(loader.epoch(0)))
    step = TimedStep(state)
    for _ in range(WARM_STEPS):
        step.run(batch)
    taken = step.run(batch)
    step.close()
    return _slowest(taken, state.world)


def step_parts(state: TrainingState, batch: Batch, seconds: float) -> dict[str, float]:
    """Return the seconds of the parts of a step on a batch that is there already.

    With several ranks, steps with and without an all-reduce take turns: the backward pass is that
    without, and the all-reduce is what the steps with it take longer.
    """
    step = TimedStep(state)
    kinds = (True, False) if state.world.world_size > 1 else (True,)
    for all_reduce in kinds:
        step.run(batch, all_reduce)  # a new size of batch, which has to warm up
    taken = sum(step.run(batch, all_reduce) for all_reduce in kinds)
    step.seconds.clear()
    for _ in range(_num_steps(seconds, taken, state.world)):
        for all_reduce in kinds:
            state.world.barrier()  # a rank must not wait for the step before of another rank
            step.run(batch, all_reduce)
    step.close()
    found = {part: statistics.median(values) for part, values in step.seconds.items()}
    with_sum = found["backward"]
    found["backward"] = found.pop("backward alone", with_sum)
    found["all-reduce"] = max(with_sum - found["backward"], 0.0)
    return found


def together(state: TrainingState, loader: ClipLoader, seconds: float) -> tuple[float, float]:
    """Return the mean seconds of a training step with its loader, and of its wait for data."""
    batches = endless(loader)
    device = state.world.device
    taken = 0.0
    for _ in range(WARM_STEPS):
        began = time.perf_counter()
        train_step(state, [next(batches)])
        synchronize(device)
        taken = time.perf_counter() - began
    num_steps = _num_steps(seconds, taken, state.world)
    waited = loader.wait_s
    began = time.perf_counter()
    for _ in range(num_steps):
        train_step(state, [next(batches)])
    synchronize(device)
    taken = time.perf_counter() - began
    return taken / num_steps, (loader.wait_s - waited) / num_steps


def _num_steps(seconds: float, step_s: float, world: World) -> int:
    """Return how many steps fit into a time, the same number on all ranks."""
    fitting = int(seconds / _slowest(step_s, world))
    return max(MIN_STEPS, min(MAX_STEPS, fitting))


def _slowest(seconds: float, world: World) -> float:
    return float(max(world.broadcast(world.gather(seconds))))
