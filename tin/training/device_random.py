"""The random numbers of `pipeline.random_numbers`, drawn on the training device.

The host never waits for the device here.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from pipeline.random_numbers import key

# Streams, which differ from those of the pipeline.
MIX = 16
JITTER = 17
RANDAUGMENT = 18
DROPOUT = 19
_QUANTILES = 4096


def uniforms(seed: int, stream: int, epoch: int, clips: Tensor, count: int) -> Tensor:
    """Return `count` numbers in [0, 1) for each of `clips` ``(B,)``: float64 ``(B, count)``.

    They equal those of `pipeline.random_numbers.uniforms`, bit for bit.
    """
    start = int(key(seed, stream, epoch).astype(np.int64)[0])
    golden = _signed(0x9E3779B97F4A7C15)
    rows = _mix(clips * golden + start)
    counter = torch.arange(1, count + 1, device=clips.device) * golden
    return _shifted(_mix(rows[:, None] + counter), 11).double() * 2.0**-53


def beta(uniform: Tensor, alpha: float) -> Tensor:
    """Return numbers with the distribution Beta(alpha, alpha), given uniform ones in [0, 1).

    This inverts the distribution, linearly between tabulated quantiles. The usual rejection
    sampling would make the host wait for the device.
    """
    table = _lower_quantiles(alpha, uniform.device)
    # The distribution is symmetric: look up the lower half, and mirror it for the upper half.
    position = (1 - (2 * uniform - 1).abs()) * (_QUANTILES - 1)
    below = position.long().clamp(max=_QUANTILES - 2)
    lower = torch.lerp(table[below], table[below + 1], position - below)
    return torch.where(uniform < 0.5, lower, 1 - lower)


@functools.cache
def _lower_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Return the quantiles 0 ... 1/2 of Beta(alpha, alpha), evenly spaced.

    The density is x^(alpha-1) (1-x)^(alpha-1), up to a factor. For alpha < 1 the first term is
    unbounded at 0; over v = (2x)^alpha instead of x it becomes a constant.
    """
    v = np.linspace(0, 1, 16 * _QUANTILES)
    density = (1 - v ** (1 / alpha) / 2) ** (alpha - 1)
    # Integrate by the trapezoidal rule, then read off v where the area reaches each quantile.
    area = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    at = np.interp(np.linspace(0, 1, _QUANTILES), area / area[-1], v)
    return torch.from_numpy(at ** (1 / alpha) / 2).to(device)


def _mix(values: Tensor) -> Tensor:
    """Return the 64-bit hash of SplitMix64; see `pipeline.random_numbers`."""
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Return `values` shifted right as unsigned numbers, which torch does not have."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the int64 with the same 64 bits as an unsigned number; torch's int64 wraps around."""
    return number - 2**64 if number >= 2**63 else number
