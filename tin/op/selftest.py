"""The compiled operator compared with its definition, on every device of this machine."""

import time
from collections.abc import Iterator

import torch

from tin.op.build import BuildError, built, find, load
from tin.op.interlace import interlace, interlace_reference


def check() -> str:
    """Compare the compiled operators with their definition; return what is built, and how it went.

    Raises:
        BuildError: nothing is built, it cannot be loaded, or a result is wrong.
    """
    lines = [str(library) for library in built()] or [str(find())]
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        load(device)
        start = time.monotonic()
        worst = max(_self_test(device))
        seconds = time.monotonic() - start
        lines.append(f"{device}: at most {worst:.2f} of what rounding allows, {seconds:.1f} s")
        if not worst <= 1:
            raise BuildError("\n".join([*lines, f"the operator is wrong on {device}"]))
    return "\n".join(lines)


def _self_test(device: str) -> Iterator[float]:
    """Yield the difference from the definition in float64, as a share of what is allowed."""
    exact = {"dtype": torch.float64, "device": device, "requires_grad": True}
    offset = torch.tensor([[0.5, -1.0, 1.7, 9.0], [0.0, -0.2, 1.0, -2.6]], **exact)
    weight, random = torch.rand(2, 8, 4, **exact), torch.randn(2, 16, 64, 5, 7, **exact)
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x, grad = (part.to(dtype).contiguous(memory_format=layout) for part in random.detach())
            small = torch.float64 if dtype == torch.float64 else torch.float32
            leaves = [t.detach().requires_grad_() for t in (x, offset.to(small), weight.to(small))]
            exactly = [leaf.detach().double().requires_grad_() for leaf in leaves]
            y, want = interlace(*leaves, 32), interlace_reference(*exactly, 32)
            results = y, *torch.autograd.grad(y, leaves, grad)
            expected = want, *torch.autograd.grad(want, exactly, grad.double())
            for found, right in zip(results, expected, strict=True):
                error = (found.double() - right).abs().max() / right.abs().max()
                yield error.item() / allowed
