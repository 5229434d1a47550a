"""Compares the compiled operator with its definition on every device of this machine."""

import time
from collections.abc import Iterator

import torch

from tin.op.build import BuildError, built, find, load
from tin.op.interlace import interlace, interlace_reference

ALLOWED = {
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
    torch.float64: 1e-12,
}
"""The largest error of each type, relative to the largest value."""


def check() -> str:
    """Compare the compiled operator with its definition; return the libraries and the results.

    The text says for each device which implementation runs, and if that is not a compiled one, why.

    Raises:
        BuildError: no library exists, it cannot be loaded, or a result is wrong.
    """
    lines = [str(library) for library in built()] or [str(find())]
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        load(device)
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        for dtype, allowed in ALLOWED.items():
            start = time.monotonic()
            errors = [error / allowed for error in _relative_errors(device, dtype)]
            seconds = time.monotonic() - start
            lines.append(
                f"{name}, {str(dtype).removeprefix('torch.')}: compiled kernels; at most"
                f" {max(errors):.2f} of the allowed error, {seconds:.1f} s"
            )
            if not all(error <= 1 for error in errors):  # max() may pass over a NaN
                raise BuildError("\n".join([*lines, f"the operator is wrong on {device}"]))
    if torch.version.cuda is None:
        lines.append(f"GPU: not used, because torch {torch.__version__} is built without CUDA")
    elif not torch.cuda.is_available():
        lines.append("GPU: not used, because torch finds none on this machine")
    return "\n".join(lines)


def _relative_errors(device: str, dtype: torch.dtype) -> Iterator[float]:
    """Yield the errors of results and gradients, relative to the largest value of each.

    The expected values come from the definition in float64.
    """
    # 2 clips of 8 frames; 32 of 64 channels are interlaced, in 4 groups.
    channels = 32
    offset = torch.tensor([[0.5, -1.0, 1.7, 9.0], [0.0, -0.2, 1.0, -2.6]], dtype=torch.float64)
    weight = torch.rand(2, 8, 4, dtype=torch.float64)
    x = torch.randn(2 * 8, 64, 5, 7, dtype=torch.float64)
    grad = torch.randn_like(x)
    small = torch.float64 if dtype == torch.float64 else torch.float32
    for layout in (torch.contiguous_format, torch.channels_last):
        # Round the inputs to the type under test first, so that both sides see the same values.
        grad_y = grad.to(device, dtype, memory_format=layout)
        inputs = (
            x.to(device, dtype, copy=True, memory_format=layout).requires_grad_(),
            offset.to(device, small, copy=True).requires_grad_(),
            weight.to(device, small, copy=True).requires_grad_(),
        )
        y = interlace(*inputs, channels)
        results = (y, *torch.autograd.grad(y, inputs, grad_y))

        exact_x, exact_offset, exact_weight = (
            tensor.detach().double().requires_grad_() for tensor in inputs
        )
        exact_inputs = (exact_x, exact_offset, exact_weight)
        exact_y = interlace_reference(*exact_inputs, channels)
        expected = (exact_y, *torch.autograd.grad(exact_y, exact_inputs, grad_y.double()))

        for result, exact in zip(results, expected, strict=True):
            error = (result.double() - exact).abs().max() / exact.abs().max()
            yield error.item()
