"""How long a rank takes for its own part of each step, without its wait for the other ranks."""

import time

import torch
from torch import Tensor, nn

from tin.ranks.distributed import World


class StepTimes:
    """Times the own part of each step of this rank.

    All ranks end a step together, because each of them waits until the gradients of all others
    are there. The own part of a step therefore ends before that wait: it begins before the rank
    takes its clips from the loader, and it ends when its backward pass has computed all gradients.
    It includes the wait for data, the work of the host and the computation. It excludes the rest
    of the all-reduce, the update, the flags, checkpoints and rows of files.

    On a CPU, the clock of the host tells both times. On a GPU, the host is ahead of the device, so
    two events on the stream of the computation tell them. They are read at the end of an interval,
    where the host waits for the device anyway. No step waits for the device or for another rank.

    With `train.bn: sync`, the forward pass already waits for the other ranks, so all ranks seem to
    be equally slow.

    A single rank has no other to be compared with, so it measures nothing.
    """

    def __init__(self, world: World):
        self._world = world
        self._is_on = world.world_size > 1
        self._on_gpu = world.device.type == "cuda"
        self._began_s = 0.0
        self._ready_s = 0.0
        self._sum_s = 0.0
        self._count = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def watch(self, replica: nn.Module) -> None:
        """Call `ready` at the end of each backward pass of `replica`, the model in DDP."""
        if self._is_on:
            replica.register_forward_hook(self._watch_backward)

    def start(self) -> None:
        """Begin a step: the rank is about to take its clips."""
        if not self._is_on:
            return
        self._finish_step()
        if self._on_gpu:
            begin = torch.cuda.Event(enable_timing=True)
            begin.record()
            self._events.append((begin, torch.cuda.Event(enable_timing=True)))
        self._began_s = time.perf_counter()
        self._ready_s = 0.0

    def ready(self) -> None:
        """Note that the gradients of a pass are ready; the last pass of a step counts."""
        if not self._is_on:
            return
        if self._on_gpu:
            self._events[-1][1].record()
        self._ready_s = time.perf_counter()

    def take(self) -> list[float]:
        """Return the mean time of the steps since the last call, at the place of this rank.

        The list has a zero for each other rank, so that its sum over all ranks holds the seconds of
        all of them. It is empty for a single rank. On a GPU, the host waits for the last step.
        """
        if not self._is_on:
            return []
        self._finish_step()
        if self._on_gpu and self._events:
            self._events[-1][1].synchronize()
            self._sum_s = sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        times = [0.0] * self._world.world_size
        times[self._world.rank] = self._sum_s / max(self._count, 1)
        self._sum_s = 0.0
        self._count = 0
        self._events.clear()
        return times

    def _finish_step(self) -> None:
        """Add the last step to the sum, if there is one."""
        if self._ready_s:
            self._sum_s += self._ready_s - self._began_s
            self._count += 1
            self._ready_s = 0.0

    def _watch_backward(self, _: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        if logits.requires_grad:
            logits.register_hook(self._at_end_of_backward)

    def _at_end_of_backward(self, _: Tensor) -> None:
        # The engine of autograd runs these callbacks in order, once all gradients are computed. DDP
        # queues its wait for the other ranks later in the same pass, so `ready` comes before it.
        torch.autograd.Variable._execution_engine.queue_callback(self.ready)
