"""Replays the forward and backward pass of a training step from a CUDA graph.

A small batch gives the GPU less work than the host needs to launch it. A CUDA graph launches all
kernels of a pass at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tin.ranks.distributed import World

Pass = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes clips and targets, adds to the gradients, and returns the loss and the logits."""

ALIGNMENT = 128  # elements, the 512 bytes to which torch aligns a tensor on a GPU
WARM_UPS = 3  # passes before the capture, in which libraries allocate memory and choose kernels


class PassGraph:
    """Runs passes over a model whose gradients stay at one place in memory.

    The first pass prepares: it runs the pass to see which parameters have gradients, and captures
    it on a GPU. Preparing changes neither weights, buffers nor random numbers, so a resumed run
    computes the same. The gradients of all parameters lie in one tensor, so ranks sum them in one
    all-reduce.

    Args:
        model: the network, without DDP.
        clips: clips of a full pass. A pass with fewer clips, because videos without a good frame
            were left out, runs eagerly. So do all passes on a CPU.
    """

    def __init__(self, model: nn.Module, clips: int) -> None:
        self._model = model
        self._clips = clips
        self.on_gradients: Callable[[], None] | None = None
        """Called when the gradients of a step are ready, before the ranks sum them."""
        self._gradients: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, work: Pass, x: Tensor, targets: Tensor, *, eager: bool = False) -> list[Tensor]:
        """Run a pass, and return its loss and logits, which the next pass may overwrite.

        Args:
            work: the pass; the same function of the same model in each call.
            x: clips, of the same shape in each full pass.
            targets: their targets, likewise.
            eager: run the pass without the graph, for example to observe the modules.
        """
        if self._gradients is None:
            self._place_gradients(work, x, targets)
        if eager or x.device.type != "cuda" or len(x) != self._clips:
            return list(work(x, targets))
        if self._graph is None:
            self._capture(work, x, targets)
        assert self._graph, "captured above"
        self._inputs[0].copy_(x)
        self._inputs[1].copy_(targets)
        self._graph.replay()
        return self._results

    def average_gradients(self, world: World) -> None:
        """Replace the gradients of each rank by their mean over all ranks."""
        assert self._gradients is not None, "a pass has run"
        if self.on_gradients:
            self.on_gradients()
        if world.world_size > 1:
            self._gradients.div_(world.world_size)
            world.all_reduce(self._gradients)

    def zero_gradients(self) -> None:
        """Set all gradients to zero; they keep their memory, which the graph writes to."""
        assert self._gradients is not None, "a pass has run"
        self._gradients.zero_()

    def _place_gradients(self, work: Pass, x: Tensor, targets: Tensor) -> None:
        """Give each parameter that the pass reaches a gradient of zeros in one common tensor."""
        self._rehearse(work, x, targets, 1)
        reached = [p for p in self._model.parameters() if p.grad is not None]
        # Sums of values that are aligned as in tensors of their own have the same bits.
        sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in reached]
        self._gradients = torch.zeros(sum(sizes), device=x.device)
        start = 0
        for parameter, size in zip(reached, sizes, strict=True):
            # With the strides of the parameter, the update runs as fast as with its own gradients.
            parameter.grad = self._gradients.as_strided(
                parameter.shape, parameter.stride(), storage_offset=start
            )
            start += size

    def _capture(self, work: Pass, x: Tensor, targets: Tensor) -> None:
        """Capture a pass over inputs that stay in place; it adds to the gradients."""
        assert self._gradients is not None, "their place is part of the graph"
        gradients = self._gradients.clone()
        self._inputs = [x.clone(), targets.clone()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._rehearse(work, self._inputs[0], self._inputs[1], WARM_UPS)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # The threads of the loader may allocate memory of the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = list(work(self._inputs[0], self._inputs[1]))
        self._gradients.copy_(gradients)

    def _rehearse(self, work: Pass, x: Tensor, targets: Tensor, count: int) -> None:
        """Run passes, and take back what they did to buffers and random numbers."""
        buffers = list(self._model.buffers())
        before = [buffer.clone() for buffer in buffers]
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            for _ in range(count):
                work(x, targets)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
